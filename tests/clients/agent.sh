#!/bin/sh
# The agent of tests/clients/clients.rs: does what the message says, in the directory that it is told.
text=$(cat)
case $text in
fail)  echo 'it cannot be done' >&2; exit 1 ;;
busy)  echo x >> "$DIR/attempts"; exit 75 ;;
away)  echo x >> "$DIR/away"; [ "$(wc -l < "$DIR/away")" -ge 4 ] || exit 75; echo x >> "$DIR/ran" ;;
slow)  echo $$ > "$DIR/slow"; exec sleep 600 ;;
half)  printf half; exit 1 ;;
esac
printf 'text=%s\n' "$text"
[ ! -e "$HERMES_TRANSCRIPT" ] || cat "$HERMES_TRANSCRIPT"
echo 'hermes-usage: {"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}' >&2
