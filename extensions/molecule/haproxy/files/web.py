"""A small web server: answers with the name that was asked for, the client's address and the port that it connected to, as HAProxy tells them."""

import http.server


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        body = '%s %s %s\n' % tuple(self.headers.get(name, '-') for name in ('Host', 'X-Forwarded-For', 'X-Forwarded-Port'))
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
