#!/bin/sh
# What codex makes of the gateway: it runs a tool, keeps to a schema, sees pictures, goes on, and tells of
# errors. BASE, KEY, HOME and CLIENTS say where; HOME is for this alone.
set -eu

work=$HOME/work
mkdir -p "$HOME/.codex" "$HOME/bin" "$work/Rome"
cd "$work"
cat > "$HOME/.codex/config.toml" << END
model = "default"
model_provider = "gateway"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.gateway]
name = "gateway"
base_url = "$BASE"
env_key = "KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
END
# Whatever is a text the model of these tests calls Rome: the command, and the directory for it.
echo 'PATH=$HOME/bin:$PATH' > "$HOME/.profile"
printf '#!/bin/sh\necho made > made\necho it is made\n' > "$HOME/bin/Rome"
chmod +x "$HOME/bin/Rome"
echo '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}' \
    > "$HOME/schema.json"
printf %s iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg== |
    base64 -d > "$HOME/picture.png"

codex() {
    node "$CLIENTS/node-full/node_modules/@openai/codex/bin/codex.js" exec --skip-git-repo-check -o "$HOME/last" \
        "$@" < /dev/null > "$HOME/said" 2> "$HOME/told"
}

# says WORDS ARGUMENTS...: its last message has the words.
says() {
    words=$1
    shift
    codex "$@" || { cat "$HOME/told"; exit 1; }
    grep -qF -- "$words" "$HOME/last" || { echo "$*: no \"$words\" in:"; cat "$HOME/last"; exit 1; }
}

# fails WORDS PROMPT: it ends with an error that has the words.
fails() {
    ! codex "$2" || { echo "$2: it is content"; exit 1; }
    grep -q -- "$1" "$HOME/told" || { echo "$2: no \"$1\" in:"; cat "$HOME/told"; exit 1; }
}

says 'you said: hi' hi
says 'you said: more' resume --last more
says 'it is made' 'call exec_command'
[ "$(cat Rome/made)" = made ]
# A model that it knows gets tools of other types too.
says 'it is made' -m gpt-5.5 'call exec_command'
says '{"city": "Rome"}' --output-schema "$HOME/schema.json" where
says 'pictures: 1' -i "$HOME/picture.png" -- 'what is this'
rm -r Rome
cp "$HOME/picture.png" Rome
says 'pictures: 1' 'call view_image'
fails 'you asked for error 400' 'error 400'
fails '401.*you asked for error 401' 'error 401'
fails 'you asked for error 404' 'error 404'
fails '429' 'error 429'
fails 'high demand' 'error 500'
fails '503.*you asked for error 503' 'error 503'
fails 'broke off' cut
KEY=none fails '401.*Invalid API key' hi
