#!/bin/sh
# What opencode makes of the gateway: it runs tools, sees pictures, goes on, and tells of errors. BASE, KEY,
# HOME and CLIENTS say where; HOME is for this alone.
set -eu

mkdir -p "$HOME/work"
cd "$HOME/work"
cat > opencode.json << END
{"autoupdate": false, "share": "disabled", "model": "gateway/default", "small_model": "gateway/default",
 "provider": {"gateway": {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": "$BASE", "apiKey": "$KEY"},
   "models": {"default": {"attachment": true, "modalities": {"input": ["text", "image"], "output": ["text"]}}}}}}
END
printf %s iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg== |
    base64 -d > "$HOME/picture.png"
# Nothing is looked for elsewhere.
export OPENCODE_DISABLE_MODELS_FETCH=1 OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_LSP_DOWNLOAD=1
export OPENCODE_DISABLE_DEFAULT_PLUGINS=1 npm_config_registry=http://127.0.0.1:9 npm_config_fetch_retries=0

# says WORDS ARGUMENTS...: it says the words; with STATUS=1 it fails with them.
says() {
    words=$1 status=0
    shift
    "$CLIENTS"/node-full/node_modules/opencode-linux-*/bin/opencode run "$@" < /dev/null > "$HOME/said" 2>&1 ||
        status=$?
    [ $status = "${STATUS-0}" ] && grep -qF -- "$words" "$HOME/said" ||
        { echo "$*: status $status, wanted \"$words\":"; cat "$HOME/said"; exit 1; }
}

# Whatever is a text the model of these tests calls Rome: the file, and what is in it.
says 'results: Wrote file' 'call write'
[ "$(cat Rome)" = Rome ]
says 'pictures: 1' --continue 'what is this' -f "$HOME/picture.png"
# It tries again by itself where an error may pass, for minutes.
STATUS=1 says 'you asked for error 400' 'error 400'
