"""A small web server for the tests: files of a folder, PUT, and the client's address.

    python http_files.py ADDRESS PORT FOLDER

GET /whoami answers with the address and port that this end sees. PUT stores the body under
its last path component. Prints one line when it listens and one for each request.
"""

from __future__ import annotations

import http.server
import shutil
import socket
import sys
from pathlib import Path


class FileHandler(http.server.SimpleHTTPRequestHandler):
    """GET and PUT on one folder."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/whoami":
            super().do_GET()
            return
        body = f"{self.client_address[0]} {self.client_address[1]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        remaining = int(self.headers["Content-Length"])
        with (Path(self.directory) / Path(self.path).name).open("wb") as target:
            while remaining:
                chunk = self.rfile.read(min(remaining, 1 << 18))
                if not chunk:
                    self.close_connection = True
                    return
                target.write(chunk)
                remaining -= len(chunk)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def copyfile(self, source, outputfile) -> None:
        shutil.copyfileobj(source, outputfile, 1 << 18)


class Server(http.server.ThreadingHTTPServer):
    """One thread a connection, in either address family."""

    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    address, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if ":" in address:
        Server.address_family = socket.AF_INET6

    def handler(*arguments) -> FileHandler:
        return FileHandler(*arguments, directory=folder)

    with Server((address, port), handler) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
