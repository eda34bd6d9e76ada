"""The annotator's HTTP interface and its page, as one ASGI application."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated

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
from dct_seg.app.folder import Entry, NoSuchPictureError
from dct_seg.app.project import ClassLabel, Project
from dct_seg.app.state import NoSuchObjectError
from dct_seg.app.tabs import OtherTabError, Tabs
from dct_seg.methods.base import Method
from dct_seg.web.answers import http_error, malformed, problem
from dct_seg.web.guard import Body, Guard

API = "/api/v1"
STATUS: dict[type[Exception], int] = {
    NoSuchPictureError: 404,
    NoSuchObjectError: 404,
    StaleError: 409,
    OtherTabError: 409,
    ValueError: 400,
    OSError: 507,
}
"""The first that an error is an instance of, in this order."""

PictureId = Annotated[str, PathParameter(description="opaque; GET /project lists them", max_length=64)]
ObjectId = Annotated[int, PathParameter(ge=1, le=schemas.MAX_REVISION)]
TabHeader = Annotated[
    str | None, Header(alias="X-DCT-Seg-Tab", description="the tab that asks", max_length=64)
]


def create_app(
    project: Project,
    make_method: Callable[[], Method],
    *,
    model: schemas.ModelCard,
    token: str | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application over a folder.

    Args:
        project: The folder; it is closed when the application shuts down.
        make_method: A new method for an image; networks inside may be shared.
        model: Description of the method for the page.
        token: Every request must carry it; None for none.
        hosts: Names that the Host header may have; None for any.
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
    app.state.root = project.folder.root
    app.add_middleware(Guard, token=token, hosts=hosts, body_of=body_of, command="dct-seg annotate")
    for kind in STATUS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, malformed(f"{API}/openapi.json"))
    app.add_exception_handler(HTTPException, http_error)
    tabs = Tabs()
    app.include_router(_routes(project, Editor(project, make_method), tabs, model), prefix=API)
    _add_page(app)
    return app


PROBLEMS = {
    400: "What was given is wrong.",
    403: "The token, the Host or the Origin is wrong.",
    404: "No such image or object.",
    408: "The rest of the request did not come.",
    409: "The image has changed since, or another tab is at work.",
    413: "More bytes than are taken.",
    415: "A body of another kind.",
    422: "Not what the schema asks for.",
    507: "The disk does not take it, or another program has changed the work; nothing has changed.",
}


def body_of(path: str) -> Body:
    """Limits of a request's body: COCO JSON, other tools' files, mask PNGs, anything else."""
    if path.endswith("/masks"):
        return Body(64 * 2**20, ("image/png",))
    if path == f"{API}/import/file":
        return Body(128 * 2**20, ("application/octet-stream",))
    return Body(128 * 2**20 if path == f"{API}/import" else 2**20)


def _routes(project: Project, editor: Editor, tabs: Tabs, model: schemas.ModelCard) -> APIRouter:
    def may_change(picture_id: PictureId, tab: TabHeader = None) -> None:
        tabs.check(tab, picture_id)

    looks = APIRouter()  # and what changes more than one image: each waits for its turn
    changes = APIRouter(dependencies=[Depends(may_change)])

    def line(entry: Entry) -> schemas.PictureLine:
        summary = project.summary(entry)
        return schemas.PictureLine(
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
        pictures = [line(entry) for entry in project.entries()]
        classes = [schemas.Class(id=one.id, name=one.name, color=one.color) for one in project.classes]
        return schemas.Project(
            name=project.folder.root.name,
            model=model,
            threshold=0.5,
            classes=classes,
            pictures=pictures,
            last=project.last(),
            serial=project.changed_since(0)[0],
            files=project.watcher.serial,
        )

    @looks.get("/project")
    def get_project() -> schemas.Project:
        return shown_project(scan=True)

    @looks.put("/classes")
    def put_classes(request: schemas.Classes) -> schemas.Project:
        project.set_classes([ClassLabel(one.id, one.name, one.color) for one in request.classes])
        return shown_project(scan=False)

    @looks.get("/pictures/{picture_id}")
    def get_picture(picture_id: PictureId) -> schemas.Picture:
        return editor.picture(picture_id)

    @looks.get(
        "/pictures/{picture_id}/image",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 304: {}},
    )
    def get_image(
        request: Request,
        picture_id: PictureId,
        max_side: Annotated[int, Query(ge=16, le=65_535, description="pixels")] = 2048,
    ) -> Response:
        with project.folder.open(picture_id) as file:
            status = os.fstat(file.fileno())
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{max_side}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        data = wire.jpeg(project.folder, project.pictures, picture_id, max_side)
        return Response(data, media_type="image/jpeg", headers=headers)

    @looks.post(
        "/pictures/{picture_id}/preview",
        responses={204: {"description": "Something newer was asked meanwhile."}},
    )
    def post_preview(picture_id: PictureId, request: schemas.NewPreview) -> schemas.Preview:
        preview = editor.preview(picture_id, request)
        return preview if preview is not None else Response(status_code=204)  # type: ignore[return-value]

    @changes.post("/pictures/{picture_id}/clicks")
    def post_click(picture_id: PictureId, request: schemas.NewClick) -> schemas.Picture:
        return editor.add_click(picture_id, request)

    @changes.post("/pictures/{picture_id}/paint")
    def post_paint(picture_id: PictureId, request: schemas.NewPaint) -> schemas.Picture:
        return editor.paint(picture_id, request)

    @changes.post("/pictures/{picture_id}/undo")
    def post_undo(picture_id: PictureId, request: schemas.Change) -> schemas.Picture:
        return editor.undo(picture_id, request)

    @changes.post("/pictures/{picture_id}/redo")
    def post_redo(picture_id: PictureId, request: schemas.Change) -> schemas.Picture:
        return editor.redo(picture_id, request)

    @changes.post("/pictures/{picture_id}/finish")
    def post_finish(picture_id: PictureId, request: schemas.Finish) -> schemas.Picture:
        return editor.finish(picture_id, request)

    @changes.post("/pictures/{picture_id}/discard")
    def post_discard(picture_id: PictureId, request: schemas.Change) -> schemas.Picture:
        return editor.discard(picture_id, request)

    @changes.post("/pictures/{picture_id}/nothing")
    def post_nothing(picture_id: PictureId, request: schemas.NothingHere) -> schemas.Picture:
        return editor.nothing_here(picture_id, request)

    @changes.post("/pictures/{picture_id}/objects/{number}/edit")
    def post_edit(picture_id: PictureId, number: ObjectId, request: schemas.Change) -> schemas.Picture:
        return editor.edit(picture_id, number, request)

    @changes.patch("/pictures/{picture_id}/objects/{number}")
    def patch_object(
        picture_id: PictureId, number: ObjectId, request: schemas.ObjectChange
    ) -> schemas.Picture:
        return editor.change_object(picture_id, number, request)

    @changes.delete("/pictures/{picture_id}/objects/{number}")
    def delete_object(picture_id: PictureId, number: ObjectId, request: schemas.Change) -> schemas.Picture:
        return editor.delete(picture_id, number, request)

    @changes.patch("/pictures/{picture_id}/objects")
    def patch_objects(picture_id: PictureId, request: schemas.ObjectsChange) -> schemas.Picture:
        return editor.change_objects(picture_id, request)

    @changes.delete("/pictures/{picture_id}/objects")
    def delete_objects(picture_id: PictureId, request: schemas.NamedObjects) -> schemas.Picture:
        return editor.delete_objects(picture_id, request)

    @changes.post("/pictures/{picture_id}/carry")
    def post_carry(picture_id: PictureId, request: schemas.Carry) -> schemas.Picture:
        return editor.carry(picture_id, request)

    @changes.post("/pictures/{picture_id}/objects/merge")
    def post_merge(picture_id: PictureId, request: schemas.NamedObjects) -> schemas.Picture:
        return editor.merge(picture_id, request)

    @looks.post("/tabs")
    def post_tab(request: schemas.Tab) -> schemas.TabState:
        alone, holder = tabs.beat(request.tab, request.picture, take=request.take)
        project.watcher.look()
        serial, changed = project.changed_since(request.since)
        return schemas.TabState(
            alone=alone,
            holder=holder,
            elsewhere=tabs.elsewhere(request.tab),
            serial=serial,
            files=project.watcher.serial,
            changed=[line(entry) for entry in changed],
        )

    @changes.put(
        "/pictures/{picture_id}/masks",
        openapi_extra={"requestBody": {"required": True, "content": {"image/png": {}}}},
    )
    async def put_masks(
        request: Request,
        picture_id: PictureId,
        revision: Annotated[int | None, Query(ge=0, le=schemas.MAX_REVISION)] = None,
    ) -> schemas.Picture:
        return await run_in_threadpool(editor.import_masks, picture_id, await request.body(), revision)

    @looks.post("/import")
    def post_import(request: schemas.CocoFile) -> schemas.Imported:
        return editor.import_coco(request)

    @looks.put(
        "/import/file",
        openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    )
    async def put_import_file(request: Request) -> schemas.Imported:
        return await run_in_threadpool(editor.import_file, await request.body())

    @looks.get(
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
    both.include_router(looks)
    both.include_router(changes)
    return both


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
    if isinstance(error, OSError) and error.strerror:  # its text would name a path of this machine
        line = f"the disk does not take or give it ({error.strerror}); nothing has changed, try again"
    root: Path = request.app.state.root
    holder = {"holder": error.holder} if isinstance(error, OtherTabError) else {}
    return problem(status, line.replace(str(root), root.name), **holder)
