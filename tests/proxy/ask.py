"""A client behind TLS: ask.py URL CERTIFICATE KEY SESSIONS MESSAGES. Sends each session its messages, one
after the other, again until each is answered, always under the same idempotency key. Prints a line
of JSON for each that was: session, text, id."""

import json
import ssl
import sys
import threading
import time
import urllib.request

url, certificate, key, sessions, messages = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
lock = threading.Lock()


def ask(session, text):
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Idempotency-Key": f"{session}-{text}",
        "X-Hermes-Session-Id": session,
    }
    deadline = time.monotonic() + 60
    while True:
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:
                return json.load(response)
        except OSError as error:
            # 502 and 503: the gateway is away. Anything else is wrong.
            status = getattr(error, "code", 503)
            if status not in (502, 503) or time.monotonic() > deadline:
                raise SystemExit(f"{session} {text}: {error} {getattr(error, 'read', bytes)()}")
            time.sleep(0.05)


def one(number):
    session = f"session-{number}"
    for count in range(int(messages)):
        text = f"message-{count}"
        reply = ask(session, text)
        said = reply["choices"][0]["message"]["content"]
        with lock:
            print(json.dumps({"session": session, "text": text, "said": said, "id": reply["id"]}), flush=True)


threads = [threading.Thread(target=one, args=(number,)) for number in range(int(sessions))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
