"""The annotator's HTTP interface and its page, as one ASGI application."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from dct_seg import __version__
from dct_seg.app import exports, schemas, wire
from dct_seg.app.editing import Editor, StaleError
from dct_seg.app.folder import Entry, NoSuchImageError
from dct_seg.app.import_result import FoundAnnotations
from dct_seg.app.importing import Importer
from dct_seg.app.project import ClassesChangedError, ClassLabel, Project
from dct_seg.app.read_records import read_coco
from dct_seg.app.state import NoSuchObjectError
from dct_seg.app.tabs import OtherTabError, Tabs
from dct_seg.methods.base import Method
from dct_seg.web.error_responses import http_error, malformed, problem
from dct_seg.web.request_checks import Body, Guard

API = "/api/v1"
STATUS: dict[type[Exception], int] = {
    NoSuchImageError: 404,
    NoSuchObjectError: 404,
    StaleError: 409,
    OtherTabError: 409,
    ClassesChangedError: 409,
    ValueError: 400,
    OSError: 507,
}
"""Status per error class; the first match counts."""

ImageId = Annotated[str, PathParameter(description="opaque; GET /project lists them", max_length=64)]
ObjectId = Annotated[int, PathParameter(ge=1, le=schemas.MAX_REVISION)]
TabHeader = Annotated[
    str | None, Header(alias="X-DCT-Seg-Tab", description="tab that sends the request", max_length=64)
]


def create_app(
    project: Project,
    make_method: Callable[[], Method],
    *,
    model: schemas.ModelCard,
    token: str | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Make the application for a folder.

    Args:
        project: Project of the folder; closed when the application shuts down.
        make_method: Factory of methods, one per image; they may share a network.
        model: Description of the method for the page.
        token: Token required in every request; None for none.
        hosts: Allowed names in the Host header; None for any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        project.close()

    app = FastAPI(
        title="dct-seg annotator",
        version=__version__,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={
            status: {"model": schemas.Problem, "description": text} for status, text in PROBLEMS.items()
        },
    )
    app.state.folders = (project.folder.root, project.work)
    where = "open the address that `dct-seg annotate` printed, or send its token"
    app.add_middleware(Guard, token=token, hosts=hosts, body_of=body_of, where=where)
    for kind in STATUS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, malformed(f"{API}/openapi.json"))
    app.add_exception_handler(HTTPException, http_error)
    tabs = Tabs()
    app.include_router(_routes(project, Editor(project, make_method), tabs, model), prefix=API)
    _add_page(app)
    return app


PROBLEMS = {
    400: "Invalid request.",
    403: "Wrong token, Host or Origin.",
    404: "No such image or object.",
    408: "The request was incomplete.",
    409: "The image or the classes have changed since, or another tab has write access.",
    413: "The body is too large.",
    415: "Unsupported content type.",
    422: "The body does not match the schema.",
    507: "The disk cannot be written, or another program has changed the files; nothing was changed.",
}


def body_of(path: str) -> Body:
    """Limits of a request body, by path: COCO JSON, other tools' files, mask PNGs, anything else."""
    if path.endswith("/masks"):
        return Body(64 * 2**20, ("image/png",))
    if path == f"{API}/import/file":
        return Body(128 * 2**20, ("application/octet-stream",))
    return Body(128 * 2**20 if path == f"{API}/import" else 2**20)


def _routes(project: Project, editor: Editor, tabs: Tabs, model: schemas.ModelCard) -> APIRouter:
    importer = Importer(project, editor.segmenter)

    def may_change(image_id: ImageId, tab: TabHeader = None) -> None:
        tabs.check(tab, image_id)

    reads = APIRouter()  # and requests that change several images, which wait for each image's lock
    changes = APIRouter(dependencies=[Depends(may_change)])

    def listed(entry: Entry) -> schemas.ListedImage:
        summary = project.summary(entry)
        return schemas.ListedImage(
            id=entry.id,
            name=entry.name,
            num_objects=summary.num_objects,
            has_draft=summary.has_draft,
            nothing=summary.nothing,
            error=entry.error or summary.error,
        )

    def shown_project(*, scan: bool) -> schemas.Project:
        if scan:
            project.watcher.scan()
        # Read before the lines: a change in between is sent again by the next heartbeat.
        serial, files = project.changed_since(0)[0], project.watcher.serial
        return schemas.Project(
            name=project.folder.root.name,
            model=model,
            threshold=0.5,
            classes=_shown(project.classes),
            pictures=[listed(entry) for entry in project.entries()],
            last=project.last(),
            window=None if project.window is None else schemas.GivenWindow(**project.window._asdict()),
            serial=serial,
            files=files,
        )

    @reads.get("/project")
    def get_project() -> schemas.Project:
        return shown_project(scan=True)

    @reads.put("/classes")
    def put_classes(request: schemas.Classes) -> schemas.Project:
        before = project.classes
        kept = {one.id: one.category_id for one in before}
        classes = [ClassLabel(one.id, one.name, one.color, kept.get(one.id)) for one in request.classes]
        # A repeated request, whose first response was lost, finds its own classes.
        if request.before not in (None, _shown(before)) and classes != before:
            raise ClassesChangedError(before)
        project.set_classes(classes, before=before)
        return shown_project(scan=False)

    @reads.put("/window")
    def put_window(request: schemas.FolderWindow) -> schemas.Project:
        project.set_window(None if request.window is None else request.window.checked())
        return shown_project(scan=False)

    @reads.get("/pictures/{image_id}")
    def get_annotated_image(image_id: ImageId) -> schemas.AnnotatedImage:
        return editor.get(image_id)

    @reads.get(
        "/pictures/{image_id}/image",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 304: {}},
    )
    def get_image(
        request: Request,
        image_id: ImageId,
        max_side: Annotated[int, Query(ge=16, le=65_535, description="pixels")] = 2048,
    ) -> Response:
        with project.folder.open(image_id) as file:
            status = os.fstat(file.fileno())
        chosen = project.window_of(image_id)
        shown = "" if chosen is None else f"-{chosen.low!r}-{chosen.high!r}"
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{max_side}{shown}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        data = wire.jpeg(project.folder, project.images, image_id, max_side, chosen)
        return Response(data, media_type="image/jpeg", headers=headers)

    @reads.post(
        "/pictures/{image_id}/preview",
        responses={204: {"description": "A newer request, or a change of the image, has replaced this one."}},
    )
    def post_preview(image_id: ImageId, request: schemas.NewPreview) -> schemas.Preview:
        preview = editor.preview(image_id, request)
        return preview if preview is not None else Response(status_code=204)  # type: ignore[return-value]

    @changes.post("/pictures/{image_id}/clicks")
    def post_click(image_id: ImageId, request: schemas.NewClick) -> schemas.AnnotatedImage:
        return editor.add_click(image_id, request)

    @changes.post("/pictures/{image_id}/paint")
    def post_paint(image_id: ImageId, request: schemas.NewPaint) -> schemas.AnnotatedImage:
        return editor.paint(image_id, request)

    @changes.patch("/pictures/{image_id}/draft")
    def patch_draft(image_id: ImageId, request: schemas.DraftClass) -> schemas.AnnotatedImage:
        return editor.change_draft(image_id, request)

    @changes.post("/pictures/{image_id}/undo")
    def post_undo(image_id: ImageId, request: schemas.Change) -> schemas.AnnotatedImage:
        return editor.undo(image_id, request)

    @changes.post("/pictures/{image_id}/redo")
    def post_redo(image_id: ImageId, request: schemas.Change) -> schemas.AnnotatedImage:
        return editor.redo(image_id, request)

    @changes.post("/pictures/{image_id}/finish")
    def post_finish(image_id: ImageId, request: schemas.Finish) -> schemas.AnnotatedImage:
        return editor.finish(image_id, request)

    @changes.post("/pictures/{image_id}/discard")
    def post_discard(image_id: ImageId, request: schemas.Change) -> schemas.AnnotatedImage:
        return editor.discard(image_id, request)

    @changes.post("/pictures/{image_id}/window")
    def post_window(image_id: ImageId, request: schemas.NewWindow) -> schemas.AnnotatedImage:
        return editor.choose_window(image_id, request)

    @changes.post("/pictures/{image_id}/nothing")
    def post_nothing(image_id: ImageId, request: schemas.NothingHere) -> schemas.AnnotatedImage:
        return editor.nothing_here(image_id, request)

    @changes.post("/pictures/{image_id}/objects/{number}/edit")
    def post_edit(image_id: ImageId, number: ObjectId, request: schemas.Change) -> schemas.AnnotatedImage:
        return editor.edit(image_id, number, request)

    @changes.patch("/pictures/{image_id}/objects/{number}")
    def patch_object(
        image_id: ImageId, number: ObjectId, request: schemas.ObjectChange
    ) -> schemas.AnnotatedImage:
        return editor.change_object(image_id, number, request)

    @changes.delete("/pictures/{image_id}/objects/{number}")
    def delete_object(image_id: ImageId, number: ObjectId, request: schemas.Change) -> schemas.AnnotatedImage:
        return editor.delete(image_id, number, request)

    @changes.patch("/pictures/{image_id}/objects")
    def patch_objects(image_id: ImageId, request: schemas.ObjectsChange) -> schemas.AnnotatedImage:
        return editor.change_objects(image_id, request)

    @changes.delete("/pictures/{image_id}/objects")
    def delete_objects(image_id: ImageId, request: schemas.NamedObjects) -> schemas.AnnotatedImage:
        return editor.delete_objects(image_id, request)

    @changes.post("/pictures/{image_id}/carry")
    def post_carry(image_id: ImageId, request: schemas.Carry) -> schemas.AnnotatedImage:
        return editor.carry(image_id, request)

    @changes.post("/pictures/{image_id}/objects/merge")
    def post_merge(image_id: ImageId, request: schemas.NamedObjects) -> schemas.AnnotatedImage:
        return editor.merge(image_id, request)

    @reads.post("/tabs")
    def post_tab(request: schemas.Tab) -> schemas.TabState:
        alone, holder = tabs.beat(request.tab, request.picture, take=request.take)
        project.watcher.scan_if_due()
        serial, changed = project.changed_since(request.since)
        return schemas.TabState(
            alone=alone,
            holder=holder,
            elsewhere=tabs.elsewhere(request.tab),
            serial=serial,
            files=project.watcher.serial,
            classes=_shown(project.classes),
            changed=[listed(entry) for entry in changed],
        )

    @changes.put(
        "/pictures/{image_id}/masks",
        openapi_extra={"requestBody": {"required": True, "content": {"image/png": {}}}},
    )
    async def put_masks(
        request: Request,
        image_id: ImageId,
        revision: Annotated[int | None, Query(ge=0, le=schemas.MAX_REVISION)] = None,
    ) -> schemas.AnnotatedImage:
        return await run_in_threadpool(editor.import_masks, image_id, await request.body(), revision)

    @reads.post("/import")
    def post_import(request: schemas.CocoFile) -> schemas.Imported:
        found = FoundAnnotations()
        read_coco(request.model_dump(), found)
        return importer.add(found)

    @reads.put(
        "/import/file",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def put_import_file(request: Request) -> schemas.Imported:
        return await run_in_threadpool(importer.import_file, await request.body())

    @reads.get(
        "/export",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in exports.MEDIA_TYPES}}},
    )
    def get_export(format: exports.Format) -> Response:
        written = exports.write(project, format)
        return FileResponse(
            written.path,
            media_type=written.media_type,
            filename=written.name,
            background=BackgroundTask(written.path.unlink),
        )

    both = APIRouter()
    both.include_router(reads)
    both.include_router(changes)
    return both


def _shown(classes: Sequence[ClassLabel]) -> list[schemas.Class]:
    return [schemas.Class(id=one.id, name=one.name, color=one.color) for one in classes]


def _add_page(app: FastAPI) -> None:
    page = Path(str(files("dct_seg.app") / "static"))

    @app.get("/", include_in_schema=False)
    def get_page() -> Response:
        if not (page / "index.html").is_file():
            return Response("the page is not built; run `npm ci && npm run build` in page/", status_code=404)
        return FileResponse(page / "index.html", headers={"Cache-Control": "no-cache"})

    if (page / "assets").is_dir():
        app.mount("/assets", StaticFiles(directory=page / "assets"), name="assets")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    line = str(error)
    if isinstance(error, OSError) and error.strerror:  # str(error) would contain a path of this machine
        line = f"the disk cannot be read or written ({error.strerror}); nothing was changed; try again"
    folders: tuple[Path, ...] = request.app.state.folders
    for folder in folders:
        line = line.replace(str(folder), folder.name)
    more: dict[str, Any] = {"holder": error.holder} if isinstance(error, OtherTabError) else {}
    if isinstance(error, ClassesChangedError):
        more["classes"] = [one.model_dump() for one in _shown(error.classes)]
    return problem(status, line, **more)
