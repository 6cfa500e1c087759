"""A request whose body is read no further than the limit: the ASGI bridge would read all of it into memory."""


class Bounded:
    """What the bridge uses of a request. One byte over the limit is enough for the API to refuse the body."""

    def __init__(self, request, limit: int):
        self._request = request
        self._left = limit + 1
        self.url = request.url
        self.method = str(request.method)
        self.headers = list(request.headers.items())

    @property
    def body(self):
        return self._pieces() if self._request.body else None

    async def _pieces(self):
        async for piece in self._request.body:
            yield _Piece(piece.to_bytes()[: self._left])
            self._left -= min(piece.byteLength, self._left)
            if self._left <= 0:
                return


class _Piece:
    def __init__(self, content: bytes):
        self._content = content

    def to_bytes(self) -> bytes:
        return self._content
