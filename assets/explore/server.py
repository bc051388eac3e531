"""The explorer over HTTP, for browsers of this machine alone.

Captions and images are not trusted: texts are escaped by the templates, images are decoded and encoded again, a strict
policy lets no other script run, and requests that name another host are refused, as a page elsewhere could make a
browser send. Of a request nothing reaches the file system but numbers.
"""

import contextlib
import errno
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import duckdb
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assets.explore import parameters
from assets.explore.choice import write_choice
from assets.explore.images import SIDES
from assets.explore.pages import FILES, PLACEHOLDER, POLICY, Pages, static_file
from assets.explore.site import Site
from pipeline.core.errors import ConfigError, PipelineError, brief

HOSTS: Final = ["127.0.0.1", "localhost"]
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_MOST_PAGES = 100_000
_LONGEST_SEARCH = 200
_LARGEST_FORM = 4096


def application(site: Site) -> Starlette:
    """The ASGI application."""
    handlers = _Handlers(site)
    routes = [
        Route("/", handlers.threshold),
        Route("/at", handlers.at),
        Route("/group/{image}", handlers.group),
        Route("/image/{image}", handlers.image),
        Route("/search", handlers.search),
        Route("/pairs", handlers.pairs),
        Route("/clusters", handlers.clusters),
        Route("/cluster/{cluster}", handlers.cluster),
        Route("/download", handlers.download),
        Route("/leaks", handlers.leaks),
        Route("/student", handlers.student),
        Route("/use", handlers.use, methods=["POST"]),
        Route("/static/{name}", handlers.static),
        *(Route(f"/{kind}/{{image}}", handlers.copies(kind)) for kind in SIDES),
    ]
    middleware = [Middleware(_Headers), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)]
    failures = dict.fromkeys((PipelineError, duckdb.Error, OSError), handlers.failed)
    return Starlette(
        routes=routes, middleware=middleware, exception_handlers={HTTPException: handlers.refused, **failures}
    )


class _Handlers:
    """One for each address; they run in threads, since they wait for files."""

    def __init__(self, site: Site):
        self._site = site

    def threshold(self, request: Request) -> Response:
        pages = self._site.pages()
        if pages.explorer.forest is None:
            lines = ["There is no near-duplicate forest yet, so there is no threshold to choose."]
            return _html(pages.render("message.html", "threshold", heading="A root", lines=lines, text=""))
        return _html(pages.render("threshold.html", "threshold", **self._at(request, pages)))

    def at(self, request: Request) -> Response:
        pages = self._with("near_duplicates")
        return _html(pages.render("at.html", **self._at(request, pages)))

    def group(self, request: Request) -> Response:
        pages = self._with("near_duplicates")
        threshold = self._threshold(request, pages)
        found = pages.views.group(parameters.number(request.path_params["image"], 64), threshold)
        if found is None:
            raise HTTPException(404, "At this threshold the image is in no group: nothing is as near to it.")
        return _html(pages.render("group.html", "threshold", group=found[0], tree=found[1], threshold=threshold))

    def image(self, request: Request) -> Response:
        pages = self._site.pages()
        image = parameters.number(request.path_params["image"], 64)
        found = pages.views.image(image)
        if found is None:
            raise HTTPException(404, "No table has an image with this id.")
        known = {"verdict": None, "left_out": None, "cluster": None, "similarity": None, "image": None} | found
        threshold = pages.explorer.default_threshold()
        return _html(pages.render("image.html", image=image, it=known, threshold=threshold))

    def search(self, request: Request) -> Response:
        pages = self._with("source_pairs")
        text = request.query_params.get("q", "")[:_LONGEST_SEARCH]
        found = pages.views.search(text)
        return _html(pages.render("search.html", "search", asked=text, pictures=found, most=60))

    def pairs(self, request: Request) -> Response:
        pages = self._with("caption_embeddings", "source_pairs")
        return _html(pages.render("pairs.html", "pairs", pictures=pages.views.worst_pairs()))

    def clusters(self, request: Request) -> Response:
        pages = self._with("cluster_assignments")
        page = parameters.number(request.query_params.get("page", "0"), 32)
        if not 0 <= page < _MOST_PAGES:
            raise HTTPException(404, "There is no such page.")
        return _html(pages.render("clusters.html", "clusters", found=pages.views.clusters(page)))

    def cluster(self, request: Request) -> Response:
        pages = self._with("cluster_assignments")
        cluster = parameters.number(request.path_params["cluster"], 32)
        found = pages.views.cluster(cluster)
        if found is None:
            raise HTTPException(404, "No image is in a cluster of this number.")
        return _html(pages.render("cluster.html", "clusters", cluster=cluster, found=found))

    def download(self, request: Request) -> Response:
        pages = self._with("images")
        return _html(pages.render("download.html", "download", rows=pages.views.download()))

    def leaks(self, request: Request) -> Response:
        pages = self._with("evaluation_leaks")
        return _html(pages.render("leaks.html", "leaks", found=pages.views.leaks()))

    def student(self, request: Request) -> Response:
        pages = self._with("cluster_accuracy")
        return _html(pages.render("student.html", "student", found=pages.views.student()))

    async def use(self, request: Request) -> Response:
        """The one thing that is written, to the one file that was named at the start."""
        if int(request.headers.get("content-length", _LARGEST_FORM + 1)) > _LARGEST_FORM:
            raise HTTPException(413, "The form is too large.")
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise HTTPException(415, "A form is wanted.")
        from urllib.parse import parse_qs

        values = {name: found[0] for name, found in parse_qs((await request.body()).decode("utf-8", "replace")).items()}
        return await run_in_threadpool(self._use, values)

    def _use(self, values: dict[str, str]) -> Response:
        if not secrets.compare_digest(values.get("token", "").encode(), self._site.token.encode()):
            raise HTTPException(403, "This form is not of this page; load the page again.")
        pages = self._with("near_duplicates")
        forest = pages.explorer.forest
        assert forest is not None
        threshold = parameters.threshold(values.get("t", ""), forest.reach)
        choice = self._site.choice
        there = choice.path.exists()
        try:
            text = write_choice(
                choice.path, self._site.root, threshold, base=choice.base, replace=values.get("replace") == "1"
            )
        except ConfigError as error:
            raise HTTPException(409, f"{error}.") from error
        done = "replaced" if there else "written"
        return _html(pages.render("message.html", heading=f"{choice.path}: {done}", lines=[], text=text))

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(404, "There is no such file.")
        return Response(static_file(name), media_type=FILES[name])

    def copies(self, kind: str) -> Callable[[Request], Response]:
        """Copies of images of one size."""

        def copy(request: Request) -> Response:
            images = self._site.pages().explorer.images
            data = images.copy(parameters.number(request.path_params["image"], 64), kind) if images else None
            # A second time the browser need not ask; the root may be made anew, but not often.
            headers = {"cache-control": "private, max-age=300"}
            if data is None:
                return Response(PLACEHOLDER, media_type="image/svg+xml", headers=headers)
            return Response(data, media_type="image/jpeg", headers=headers)

        return copy

    def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._message(error.status_code, "Not here", str(error.detail))

    def failed(self, request: Request, error: Exception) -> Response:
        """As a rule a root that is being written: what was read is there no longer."""
        self._site.doubt()
        return self._message(503, "The root could not be read", brief(error))

    def _message(self, status: int, heading: str, line: str) -> Response:
        lines = [line]
        text = self._site.pages().render("message.html", heading=heading, lines=lines, text="")
        return HTMLResponse(text, status_code=status)

    def _with(self, *needed: str) -> Pages:
        pages = self._site.pages()
        missing = [name for name in needed if name not in pages.explorer.tables]
        if missing:
            raise HTTPException(404, f"The table {missing[0]} is not there yet.")
        return pages

    def _at(self, request: Request, pages: Pages) -> dict[str, Any]:
        choice = self._site.choice
        return {
            "at": pages.views.at(self._threshold(request, pages)),
            "token": self._site.token,
            "file": choice.path,
            "file_exists": choice.path.exists(),
        }

    def _threshold(self, request: Request, pages: Pages) -> float:
        forest = pages.explorer.forest
        assert forest is not None
        if "removal" in request.query_params:
            return forest.threshold_for(min(max(parameters.real(request.query_params["removal"]), 0.0), 1.0))
        text = request.query_params.get("t")
        return pages.explorer.default_threshold() if text is None else parameters.threshold(text, forest.reach)


def _html(text: str) -> HTMLResponse:
    return HTMLResponse(text)


class _Headers:
    """What every answer carries, a refusal too; its own headers come first."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in there)]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket on loopback; 0 takes any port that is free. Raises :class:`ConfigError` for one that is in use."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            # At once, so that nobody else gets it while the root is opened.
            listener.listen()
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
            raise ConfigError(f"port {port} of 127.0.0.1 {why}; --port takes another") from error
        yield listener


def serve(site: Site, listener: socket.socket) -> None:
    """Answer until Ctrl-C."""
    import uvicorn

    config = uvicorn.Config(application(site), log_level="warning", access_log=False, server_header=False)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
