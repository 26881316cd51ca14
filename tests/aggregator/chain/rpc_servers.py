"""JSON-RPC servers of our own, which answer as tests tell them."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

Answer = Callable[[str, list[Any]], Any]


class Status(NamedTuple):
    """An answer with another status than 200; `headers` as they stand, each with its line's end."""

    status: int
    headers: str = ""
    body: bytes = b""


class Endpoint:
    """A JSON-RPC server that answers as it is told. `answer` may raise JsonRpcError or sleep by returning a future."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/secret-key"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        request = json.loads(await reader.readexactly(length))
        self.asked.append(request["method"])
        status, headers = 200, ""
        try:
            result = self.answer(request["method"], request["params"])
            if isinstance(result, Status):
                status, headers, body = result.status, result.headers, result.body
            elif isinstance(result, bytes):  # not JSON-RPC at all
                body = result
            else:
                body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
        except JsonRpcError as error:
            body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error.args[0]}).encode()
        except TimeoutError:
            await reader.read()  # until the caller has lost patience
            body = b""
        writer.write(f"HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{headers}".encode())
        writer.write(b"connection: close\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class JsonRpcError(Exception):
    """What the endpoint answers with."""
