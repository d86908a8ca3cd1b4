"""The application behind the server: origin.py PORT

Answers with HTTP/1.1 on loopback: /app/wait?ID after a moment, as a page that takes work; /app/seen?ID says whether such a request arrived here;
/app/download?ID goes on, a line at a time, until /app/finish?ID; /app/echo becomes a WebSocket's connection that gives back what it gets.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import re
import sys

WORK = 0.4  # seconds that a page takes
PACE = 0.5  # seconds between two lines of a download
GUID = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'  # RFC 6455 section 1.3

seen: set[str] = set()
finished: set[str] = set()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection with one request."""
    try:
        head = await reader.readuntil(b'\r\n\r\n')
        path, dummy, identifier = head.split()[1].decode().partition('?')
        if path == '/app/echo':
            key = re.search(rb'(?i)\r\nsec-websocket-key: *(\S+)', head)[1]
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
            upgrade = b'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ' + accept
            writer.write(b'HTTP/1.1 101 Switching Protocols\r\n' + upgrade + b'\r\n\r\n')
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        elif path == '/app/download':
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n')
            for number in itertools.count():
                last = identifier in finished
                line = b'end\n' if last else b'%d\n' % number
                writer.write(b'%x\r\n%s\r\n' % (len(line), line))
                await writer.drain()
                if last:
                    break
                await asyncio.sleep(PACE)
            writer.write(b'0\r\n\r\n')
        else:
            body = b'ok\n'
            if path == '/app/wait':
                seen.add(identifier)
                await asyncio.sleep(WORK)
            elif path == '/app/seen':
                body = b'yes\n' if identifier in seen else b'no\n'
            elif path == '/app/finish':
                finished.add(identifier)
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' % (len(body), body))
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # the server before us ended it; what that means is the client's to say
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(answer, '127.0.0.1', int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
