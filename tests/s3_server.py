"""An S3 endpoint on loopback (moto), and one that answers what a test tells it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from overnight.adapters.s3 import Bucket


@contextmanager
def s3_server() -> Iterator[str]:
    """Its URL."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def new_bucket(url: str, name: str) -> Bucket:
    """An empty one, which archives are kept in below a prefix."""
    httpx.put(f"{url}/{name}").raise_for_status()
    return bucket_at(url, name)


def bucket_at(url: str, name: str) -> Bucket:
    return Bucket(
        name=name,
        prefix="team/overnight",
        endpoint=url,
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
        retries=1,
    )


class Behind:
    """The bucket as its owner sees it, with the whole keys of the objects."""

    def __init__(self, url: str, name: str) -> None:
        keys = S3Store(
            name,
            endpoint=url,
            region="us-east-1",
            access_key_id="key",
            secret_access_key="secret",
            client_options={"allow_http": True},
        )
        self._keys = keys

    async def read(self, key: str) -> tuple[bytes, Mapping[str, str]]:
        """The content and the metadata."""
        found = await obstore.get_async(self._keys, key)
        return bytes(await found.bytes_async()), found.attributes

    async def write(self, key: str, content: bytes, metadata: Mapping[str, str]) -> None:
        await obstore.put_async(self._keys, key, content, attributes=dict(metadata))


def uploads_under_way(url: str, name: str) -> int:
    """Those that were begun in parts and neither completed nor given up."""
    return httpx.get(f"{url}/{name}?uploads").text.count("<UploadId>")


@contextmanager
def answering(status: int, body: bytes, *, claimed: int | None = None) -> Iterator[str]:
    """The URL of a server that answers every request with this; `claimed` is the length that it speaks of."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body) if claimed is None else claimed))
            self.send_header("etag", '"tag"')
            self.send_header("last-modified", "Tue, 24 Nov 2026 12:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
        setattr(Handler, f"do_{method}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
