#!/bin/sh
# configure.sh AGENT HOME PORT CLIENTS: writes what the agent reads so that it asks the model server at this
# port, and prints how it is started: {"command":[...],"env":{...}}.
set -eu

name=$1 home=$2 base=http://127.0.0.1:$3 clients=$4
case $name in
hermes)
    mkdir -p "$home/hermes"
    cat > "$home/hermes/config.yaml" << END
model:
  provider: custom
  default: m
  base_url: $base/v1
  api_key: key
END
    echo "{\"command\":[\"$clients/python-hermes/bin/hermes\",\"acp\"],\"env\":{\"HERMES_HOME\":\"$home/hermes\"}}"
    ;;
codex)
    mkdir -p "$home/codex"
    cat > "$home/codex/config.toml" << END
model = "gpt-5.4"
model_provider = "tests"
approval_policy = "untrusted"
sandbox_mode = "danger-full-access"
[model_providers.tests]
name = "tests"
base_url = "$base/v1"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
END
    echo "{\"command\":[\"$clients/node/node_modules/.bin/codex-acp\"],\"env\":{\"CODEX_HOME\":\"$home/codex\"}}"
    ;;
gemini)
    mkdir -p "$home/.gemini"
    echo '{"security":{"auth":{"selectedType":"gemini-api-key"}},"general":{"enableAutoUpdate":false},"privacy":{"usageStatisticsEnabled":false},"telemetry":{"enabled":false}}' > "$home/.gemini/settings.json"
    echo "{\"command\":[\"$clients/node-full/node_modules/.bin/gemini\",\"--acp\"],\"env\":{\"GEMINI_API_KEY\":\"key\",\"GOOGLE_GEMINI_BASE_URL\":\"$base\"}}"
    ;;
esac
