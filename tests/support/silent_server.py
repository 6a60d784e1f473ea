"""A server on loopback that takes connections and never answers."""

import contextlib
import socket
import threading


class SilentServer(contextlib.AbstractContextManager):
    """``connections`` counts those that have arrived."""

    def __init__(self):
        self.connections = 0
        self._open: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> "SilentServer":
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        for connection in [self._socket, *self._open]:
            connection.close()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._open.append(connection)
