"""One contract for every method, and tests of single methods."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from networks import tiny_net

from dct_seg import Method
from dct_seg.clicks import Click
from dct_seg.methods import METHODS
from dct_seg.methods import sam_onnx as sam_module
from dct_seg.methods.classical.color_model import ColorModel
from dct_seg.methods.classical.graph_cut import GridGraph
from dct_seg.methods.classical.random_walker import RandomWalker
from dct_seg.methods.classical.seeds import frame_of, keep_seeded, mark_seeds
from dct_seg.methods.classical.star_convexity import (
    EuclideanStarConvexity,
    GeodesicStarConvexity,
    gradient_length,
)
from dct_seg.methods.extras import import_extra

LEARNED = [
    "brs",
    "cmg",
    "dctnet",
    "dctnet_brs",
    "dctnet_radii",
    "dctnet_statistics",
    "dos",
    "fbrs",
    "fbrs_a",
    "fbrs_c",
    "fca_net",
    "iis_ld",
    "ris_net",
]
CLASSICAL = ["disc", "esc", "geodesic", "grabcut", "graph_cut", "gsc", "random_walker"]


class FakeSession:
    """Fake onnxruntime.

    An encoder that passes the image through, and a decoder that returns discs and its input logits.
    """

    def __init__(self, path: str, *_: object, **__: object) -> None:
        self.encodes = "encoder" in path
        self.feeds: list[dict] = []

    def get_inputs(self) -> list[SimpleNamespace]:
        if self.encodes:
            return [SimpleNamespace(name="x", shape=["batch", 3, 64, 64])]
        return [SimpleNamespace(name=name, shape=[]) for name in sam_module._DECODER_INPUTS]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in ("masks", "iou_predictions", "low_res_masks")]

    def run(self, _: object, feeds: dict) -> list[np.ndarray]:
        self.feeds.append(feeds)
        if self.encodes:
            return [feeds["x"].mean((1,), keepdims=True)]
        height, width = feeds["orig_im_size"].astype(int)
        rows, cols = np.mgrid[:height, :width] * (1024 / max(height, width))
        logits = np.full((height, width), -4.0, np.float32)
        for (col, row), label in zip(feeds["point_coords"][0], feeds["point_labels"][0], strict=True):
            if label >= 0:
                logits[np.hypot(rows - row, cols - col) < 300] = 8 * label - 4
        return [logits[None, None], np.full((1, 1, 256, 256), len(self.feeds), np.float32)]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Method]:
    def build(name: str, **options: object) -> Method:
        if name == "sam_onnx":
            folder = tmp_path_factory.mktemp("pair")
            paths = {part: str(folder / f"{part}.onnx") for part in ("encoder", "decoder")}
            for path in paths.values():
                open(path, "wb").close()
            runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=FakeSession)
            monkeypatch.setattr(sam_module, "import_extra", lambda *_, **__: runtime)
            return METHODS.get(name)(**paths, **options)
        if name in LEARNED:
            net = tiny_net(**getattr(METHODS.get(name), "wants"))  # noqa: B009
            return METHODS.get(name)(net=net, first_size=64, zoom_size=64, **options)
        return METHODS.get(name)(**options)

    return build


def sample_image(height: int = 40, width: int = 56) -> np.ndarray:
    """A noisy green field with a red 20x24 box whose corner is at (10, 16)."""
    image = np.full((height, width, 3), (40, 160, 60), np.uint8)
    image[10:30, 16:40] = (200, 40, 40)
    noise = np.random.default_rng(0).integers(-8, 9, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


POSITIVE = Click(20, 28, radius=5.0)
NEGATIVE = Click(4, 6, positive=False, radius=4.0)


@pytest.fixture(params=[*CLASSICAL, "sam_onnx", *LEARNED])
def method(request: pytest.FixtureRequest, make: Callable[..., Method]) -> Method:
    return make(request.param)


def test_every_registered_method_is_under_the_contract() -> None:
    assert METHODS.names() == sorted([*CLASSICAL, "sam_onnx", *LEARNED])


def test_probabilities_have_the_image_s_size_and_lie_between_0_and_1(method: Method) -> None:
    image = sample_image()
    method.reset(image)
    previous = None
    for clicks in ([POSITIVE], [POSITIVE, NEGATIVE], [POSITIVE, NEGATIVE, Click(20, 20)]):
        filled = method.fill_radii(clicks, previous)
        assert [(c.row, c.col, c.positive) for c in filled] == [(c.row, c.col, c.positive) for c in clicks]
        previous = method.predict(image, filled, previous)
        assert previous.shape == (40, 56)
        assert previous.dtype == np.float32
        assert np.isfinite(previous).all()
        assert 0 <= previous.min() <= previous.max() <= 1


def test_given_radius_is_kept(method: Method) -> None:
    method.reset(sample_image())
    assert method.fill_radii([POSITIVE, NEGATIVE], None) == [POSITIVE, NEGATIVE]


def test_no_clicks_give_an_empty_mask(method: Method) -> None:
    image = sample_image()
    method.reset(image)
    assert not method.predict(image, [], None).any()


def test_background_click_on_an_object_click_is_allowed(method: Method) -> None:
    image = sample_image()
    method.reset(image)
    click = Click(20, 28, radius=4.0)
    probs = method.predict(
        image, [click, Click(20, 28, positive=False, radius=4.0)], method.predict(image, [click], None)
    )
    assert probs.shape == image.shape[:2]
    assert np.isfinite(probs).all()


@pytest.mark.parametrize("name", CLASSICAL)
def test_object_fully_covered_by_negative_clicks_is_removed(make: Callable[..., Method], name: str) -> None:
    method = make(name)
    method.reset(sample_image())
    clicks = [Click(20, 28, radius=4.0), Click(20, 28, positive=False, radius=4.0)]
    assert not method.predict(sample_image(), clicks, None).any()


def test_image_of_one_pixel_is_accepted(method: Method) -> None:
    image = np.full((1, 1, 3), 90, np.uint8)
    method.reset(image)
    probs = method.predict(image, method.fill_radii([Click(0, 0)], None), None)
    assert probs.shape == (1, 1)
    assert np.isfinite(probs).all()


@pytest.mark.parametrize("size", [(1, 30), (30, 1), (2, 3)])
def test_thin_image_is_accepted(method: Method, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    method.reset(image)
    clicks = [Click(0, 0, radius=1.0), Click(size[0] - 1, size[1] - 1, positive=False, radius=1.0)]
    probs = method.predict(image, clicks[:1], None)
    assert np.isfinite(method.predict(image, clicks, probs)).all()


def test_image_of_one_color_is_accepted(method: Method) -> None:
    image = np.full((20, 30, 3), 128, np.uint8)
    method.reset(image)
    first = method.predict(image, [Click(10, 10, radius=3.0)], None)
    second = method.predict(
        image, [Click(10, 10, radius=3.0), Click(10, 25, positive=False, radius=3.0)], first
    )
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()


def test_clicks_at_the_border_are_accepted(method: Method) -> None:
    image = sample_image()
    method.reset(image)
    corners = [
        Click(0, 0),
        Click(0, 55, positive=False),
        Click(39, 0, positive=False, radius=30.0),
        Click(39, 55),
    ]
    probs = method.predict(image, method.fill_radii(corners, None), None)
    assert probs.shape == (40, 56)
    assert np.isfinite(probs).all()


def test_the_same_clicks_give_the_same_result(method: Method) -> None:
    image = sample_image()
    answers = []
    for _ in range(2):
        method.reset(image)
        first = method.predict(image, [POSITIVE], None)
        answers.append((first.copy(), method.predict(image, [POSITIVE, NEGATIVE], first).copy()))
        method.reset(image[::-1].copy())
        method.predict(image[::-1].copy(), [POSITIVE], None)
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])


def test_predict_does_not_change_its_arguments(method: Method) -> None:
    image = sample_image()
    method.reset(image)
    first = method.predict(image, [POSITIVE], None)
    kept = first.copy()
    method.predict(image, [POSITIVE, NEGATIVE], first)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(image, sample_image())


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 4), (0, 9, 3)])
def test_image_of_another_shape_is_refused_with_advice(method: Method, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"RGB.*got|got.*RGB") as error:
        method.reset(np.zeros(shape, np.uint8))
    assert str(shape) in str(error.value)


def test_an_image_of_another_type_is_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="float64"):
        method.reset(np.zeros((8, 9, 3)))
    with pytest.raises(ValueError, match="list"):
        method.reset([[0, 0, 0]])  # type: ignore[arg-type]


def test_options_are_plain_and_recreate_the_method(make: Callable[..., Method]) -> None:
    for name in CLASSICAL:
        made = make(name, seed_radius=7.0)
        assert made.options["seed_radius"] == 7.0
        assert make(name, **made.options).options == made.options


@pytest.mark.parametrize("name", CLASSICAL)
def test_seeds_keep_their_label(make: Callable[..., Method], name: str) -> None:
    image, made = sample_image(), make(name)
    made.reset(image)
    probs = made.predict(image, [POSITIVE, Click(22, 36, positive=False, radius=3.0)], None)
    assert probs[20, 28] == 1
    assert probs[22, 36] == 0


@pytest.mark.parametrize("name", [n for n in CLASSICAL if n != "disc"])
def test_two_clicks_find_a_red_box_on_green(make: Callable[..., Method], name: str) -> None:
    image, made = sample_image(), make(name)
    made.reset(image)
    pred = made.predict(image, [POSITIVE, NEGATIVE], made.predict(image, [POSITIVE], None)) > 0.5
    box = np.zeros((40, 56), bool)
    box[10:30, 16:40] = True
    assert (pred & box).sum() / (pred | box).sum() > 0.95


@pytest.mark.parametrize("name", [*CLASSICAL, "sam_onnx"])
def test_a_click_outside_the_image_is_refused(make: Callable[..., Method], name: str) -> None:
    made = make(name)
    made.reset(sample_image())
    with pytest.raises(ValueError, match=r"click \(40, 3\) lies outside the image of 40 rows and 56 columns"):
        made.predict(sample_image(), [Click(40, 3)], None)
    with pytest.raises(ValueError, match=r"call reset\(image\) first"):
        made.predict(sample_image(60, 60), [Click(3, 3)], None)


# seeds


def test_overlapping_circles_go_to_the_nearest_click_and_a_click_keeps_its_own_pixel() -> None:
    seeds = mark_seeds(
        (1, 7),
        [Click(0, 1, radius=4.0), Click(0, 4, positive=False, radius=4.0), Click(0, 4)],
        seed_radius=0.0,
    )
    assert seeds.tolist() == [[1, 1, 1, 0, 1, 0, 0]]


def test_a_circle_ends_before_the_drag_s_end() -> None:
    assert mark_seeds((1, 9), [Click(0, 4, radius=3.0)], seed_radius=0.0).tolist() == [
        [-1, -1, 1, 1, 1, 1, 1, -1, -1]
    ]


def test_a_circle_ends_before_the_drag_s_end_despite_float32_rounding() -> None:
    for squared in (2, 5, 8, 10, 13, 17, 20, 25, 90001):
        length = float(np.float32(np.sqrt(squared)))
        for radius in (length, float(np.nextafter(np.float32(length), np.float32(1e9)))):
            rows, cols = np.nonzero(
                mark_seeds((700, 700), [Click(350, 350, radius=radius)], seed_radius=0.0) == 1
            )
            assert ((rows - 350) ** 2 + (cols - 350) ** 2).max() < squared


def test_a_missing_radius_ends_at_the_edge_of_the_last_mask(make: Callable[..., Method]) -> None:
    disc = make("disc", seed_radius=5.0)
    previous = np.zeros((40, 40), np.float32)
    previous[:, 20:] = 0.9
    clicks = [Click(10, 3, radius=9.0), Click(10, 17), Click(10, 28, positive=False)]
    assert [c.radius for c in disc.fill_radii(clicks, previous)] == [9.0, 3.0, 5.0]
    assert [c.radius for c in disc.fill_radii(clicks, None)] == [9.0, 5.0, 5.0]


def test_parts_without_a_seed_are_dropped() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1]], bool)
    seeds = np.full((2, 4), -1, np.int8)
    seeds[1, 3] = 1
    seeds[0, 2] = 1
    assert keep_seeded(mask, seeds).astype(int).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert not keep_seeded(mask, np.full((2, 4), -1, np.int8)).any()


def test_the_frame_of_a_small_image_is_the_whole_image() -> None:
    assert frame_of((3, 4)).astype(int).tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert frame_of((1, 1)).all()
    assert frame_of((3, 4), 2).all()


# colors, graph, paths


def test_colors_of_one_side_have_probability_0_or_1_and_unseen_ones_a_half() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :3] = (255, 0, 0)
    image[:, 3:] = (0, 0, 255)
    image[1, 2] = (0, 255, 0)
    seeds = np.full((4, 6), -1, np.int8)
    seeds[:, 0] = 1
    seeds[:, 5] = 0
    probability = ColorModel(image, blur=0.5, frame_weight=0.0).object_probability(seeds)
    assert probability[0, 1] > 0.99
    assert probability[0, 4] < 0.01
    assert probability[1, 2] == pytest.approx(0.5)


def test_the_cut_has_the_lowest_cost_of_all_labelings() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    costs = rng.uniform(0, 2, (2, 3, 3))
    seeds = np.full((3, 3), -1, np.int8)
    seeds[0, 0] = 1
    seeds[2, 2] = 0
    graph = GridGraph(image, smoothness=1.0)

    def energy(labels: np.ndarray) -> float:
        flat = labels.ravel()
        edges = sum(
            w for t, h, w in zip(graph.tails, graph.heads, graph.weights, strict=True) if flat[t] != flat[h]
        )
        return float(costs[0][labels].sum() + costs[1][~labels].sum() + edges)

    every = [np.array([bool(code >> i & 1) for i in range(9)]).reshape(3, 3) for code in range(512)]
    allowed = [labels for labels in every if labels[0, 0] and not labels[2, 2]]
    found = graph.cut(costs[0], costs[1], seeds)
    assert energy(found) == pytest.approx(min(map(energy, allowed)), abs=0.01)
    assert len(graph.tails) == 20  # 6 + 6 straight edges and 8 diagonal ones


def test_an_edge_costs_what_the_formula_says() -> None:
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, 2] = (30, 40, 0)  # squared differences 0 and 2500, their mean 1250
    graph = GridGraph(image, smoothness=10.0)
    assert graph.weights.tolist() == pytest.approx([10.0, 10 * np.exp(-1)])


def test_with_a_parent_no_labeling_has_a_child_without_it() -> None:
    image = np.zeros((1, 4, 3), np.uint8)
    seeds = np.array([[1, -1, -1, -1]], np.int8)
    wants = np.array([[0.0, 9.0, 0.0, 0.0]])  # the second pixel is expensive as object
    cheap = np.array([[0.0, 0.0, 3.0, 3.0]])
    graph = GridGraph(image, smoothness=0.0)
    assert graph.cut(wants, cheap, seeds).tolist() == [[True, False, True, True]]
    parents = np.array([[0, 0, 1, 2]], np.int32)
    assert graph.cut(wants, cheap, seeds, parents).tolist() == [[True, False, False, False]]
    assert graph.cut(wants, 2 * cheap, seeds, parents).tolist() == [[True, True, True, True]]


def _path(parents: np.ndarray, row: int, col: int) -> list[tuple[int, int]]:
    path = [(row, col)]
    while int(parents[path[-1]]) != path[-1][0] * parents.shape[1] + path[-1][1]:
        path.append(divmod(int(parents[path[-1]]), parents.shape[1]))
        assert len(path) < 200
    return path


def test_euclidean_paths_are_straight_and_end_in_the_nearest_seed() -> None:
    method = EuclideanStarConvexity()
    seeds = np.full((9, 12), -1, np.int8)
    seeds[4, 2] = 1
    seeds[0, 11] = 1
    parents = method.parents(seeds)
    assert _path(parents, 4, 5) == [(4, 5), (4, 4), (4, 3), (4, 2)]
    assert _path(parents, 7, 5) == [(7, 5), (6, 4), (5, 3), (4, 2)]
    assert _path(parents, 2, 11) == [(2, 11), (1, 11), (0, 11)]
    assert all(_path(parents, r, c)[-1] in {(4, 2), (0, 11)} for r in range(9) for c in range(12))


def test_geodesic_paths_go_around_an_edge() -> None:
    method = GeodesicStarConvexity(edge_weight=100.0)
    image = np.zeros((9, 9, 3), np.uint8)
    image[2:7, 4] = 255  # a wall with a way around it
    method.reset(image)
    seeds = np.full((9, 9), -1, np.int8)
    seeds[4, 1] = 1
    path = _path(method.parents(seeds), 4, 7)
    assert path[-1] == (4, 1)
    assert not any(image[pixel].any() for pixel in path)


def test_the_gradient_s_length_is_that_of_central_differences() -> None:
    values = np.random.default_rng(0).random((5, 6))
    row, col = np.gradient(values)
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(gradient_length(values)[inner], np.hypot(row, col)[inner], rtol=1e-5)


def test_a_seed_of_one_pixel_survives_a_random_walker_s_shrinking_and_the_border_is_background() -> None:
    method = RandomWalker(max_side=10)
    image = sample_image(100, 140)
    method.reset(image)
    seeds = np.full((100, 140), -1, np.int8)
    seeds[33, 57] = 1
    seeds[55, 83] = 0
    seeds[0, 0] = 1
    labels = method._labels(seeds)  # 7 x 10
    assert np.argwhere(labels[1:-1, 1:-1] > 0).tolist() == [[1, 3], [2, 4]]
    assert (labels[2, 4], labels[3, 5]) == (1, 2)
    assert labels[0, 0] == 1, "a positive seed at the border"
    assert (labels[-1] == 2).all(), "is the background everywhere else"


# SAM


def test_sam_receives_the_logits_of_the_corrected_result(make: Callable[..., Method]) -> None:
    image, method = sample_image(), make("sam_onnx")
    method.reset(image)
    first = method.predict(image, [POSITIVE], None)
    second = method.predict(image, [POSITIVE, NEGATIVE], first)
    method.predict(image, [POSITIVE, NEGATIVE, NEGATIVE], second)
    method.predict(image, [POSITIVE, POSITIVE], first)  # after two undos
    feeds = method._decoder.feeds
    assert [float(f["has_mask_input"][0]) for f in feeds] == [0, 1, 1, 1]
    assert [float(f["mask_input"][0, 0, 0, 0]) for f in feeds] == [0, 1, 2, 1]


def test_sam_keeps_no_result_that_nobody_else_holds(make: Callable[..., Method]) -> None:
    image, method = sample_image(), make("sam_onnx")
    method.reset(image)
    first = method.predict(image, [POSITIVE], None)
    for _ in range(5):
        method.predict(image, [POSITIVE, NEGATIVE], first)
    assert len(method._answers) <= 2


def test_sam_recomputes_logits_from_foreign_probabilities(
    make: Callable[..., Method],
) -> None:
    image, method = sample_image(), make("sam_onnx")
    method.reset(image)
    foreign = np.full((40, 56), 0.2, np.float32)
    method.predict(image, [POSITIVE], foreign)
    fed = method._decoder.feeds[-1]["mask_input"][0, 0]
    assert fed[:183, :256] == pytest.approx(np.log(0.25), abs=1e-5)  # the image fills 40 / 56 of 256 rows
    assert not fed[184:].any()


def test_sam_s_points_are_in_its_own_square_with_padding_last(make: Callable[..., Method]) -> None:
    image, method = np.zeros((512, 256, 3), np.uint8), make("sam_onnx")
    method.reset(image)
    method.predict(image, [Click(100, 50), Click(7, 9, positive=False)], None)
    feeds = method._decoder.feeds[-1]
    assert feeds["point_coords"].tolist() == [[[100, 200], [18, 14], [0, 0]]]
    assert feeds["point_labels"].tolist() == [[1, 0, -1]]
    assert feeds["orig_im_size"].tolist() == [512, 256]


def test_sam_without_its_files_names_them() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(
        FileNotFoundError, match=r"needs encoder=PATH of a SAM-style ONNX file, got 'nothing.onnx'"
    ):
        METHODS.get("sam_onnx")(encoder="nothing.onnx", decoder="nothing.onnx")


def test_missing_extra_is_reported_in_one_line_with_its_pip_command() -> None:
    with pytest.raises(
        ImportError, match=r"^method 'random_walker' needs scikit-image; pip install 'dct-seg\[classical\]'$"
    ):
        import_extra(
            "skimage_that_is_not_there", package="scikit-image", method="random_walker", extra="classical"
        )
