# How h11 frames what a client sends. A line of hexadecimal in is a connection's bytes; a line out is
# its messages, as METHOD:TARGET:VERSION:FIELDS:BODY:END in hexadecimal (END: where the next message
# begins), and how it ended: more (bytes are missing), closed, or error= and why.
import sys

import h11


def text(data):
    return bytes(data).hex()


def frames(data):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
    if data:
        connection.receive_data(data)
    head, body = None, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            end = len(data) - len(connection.trailing_data[0])
            fields = [text(n) + "=" + text(v) for n, v in head.headers]
            parts = [text(head.method), text(head.target), text(head.http_version)]
            yield ":".join(parts + [",".join(fields), text(body), str(end)])
            connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                yield "closed"
                return
            connection.start_next_cycle()
        elif event is h11.NEED_DATA:
            yield "more"
            return
        else:
            yield "error=" + type(event).__name__
            return


def collect(data):
    said = []
    try:
        for frame in frames(data):
            said.append(frame)
    except h11.RemoteProtocolError as error:
        said.append("error=" + "_".join(str(error).split()))
    return " ".join(said)


for line in sys.stdin:
    print(collect(bytes.fromhex(line)), flush=True)
