"""Click encoders: each against a loop written from its equation, and all against one contract."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from networks import TINY, write_plugin
from torch import Tensor

import dct_seg.models  # noqa: F401  # registers the encoders that see the image
from dct_seg import Click, ClickBatch, ClickEncoder, DCTNet, DCTNetConfig
from dct_seg.click_encoders import (
    CLICK_ENCODERS,
    Disk,
    Euclidean,
    Gaussian,
    HalfWidthGaussian,
    SpatialDCT,
    TanhDistance,
)

SIZE = (11, 17)
CLICKS = [
    [Click(2, 3, radius=2.0), Click(8.5, 14.25, radius=7.0), Click(5, 9, positive=False, radius=4.0)],
    [Click(0, 16, positive=False, radius=0.0)],
    [],
]
PIXELS = [(row, col) for row in range(SIZE[0]) for col in range(SIZE[1])]


@pytest.fixture
def batch() -> ClickBatch:
    return ClickBatch.from_clicks(CLICKS)


def looped(
    union: Callable[[list[float]], float], empty: float, value: Callable[[float, Click], float]
) -> Tensor:
    """Eqs. 1 and 2 as printed.

    For each image, sign and pixel the union, over the clicks, of a value of distance and click.
    """
    maps = torch.full((len(CLICKS), 2, *SIZE), empty)
    for image, clicks in enumerate(CLICKS):
        for channel, positive in enumerate([True, False]):
            of_sign = [c for c in clicks if c.positive is positive]
            if of_sign:
                for row, col in PIXELS:
                    values = [value(math.hypot(row - c.row, col - c.col), c) for c in of_sign]
                    maps[image, channel, row, col] = union(values)
    return maps


def gaussian(distance: float, sigma: float) -> float:
    return math.exp(-(distance**2) / (2 * sigma**2))


def test_euclidean_is_the_distance_to_the_nearest_click_truncated_and_normalized(batch: ClickBatch) -> None:
    wanted = looped(min, 1.0, lambda distance, _: min(distance, 6.0) / 6.0)
    torch.testing.assert_close(Euclidean(limit=6.0)(batch, SIZE), wanted)


def test_disk_is_one_within_its_radius_of_a_click(batch: ClickBatch) -> None:
    wanted = looped(max, 0.0, lambda distance, _: float(distance <= 3.0))
    torch.testing.assert_close(Disk(radius=3.0)(batch, SIZE), wanted)


def test_tanh_distance_is_the_tanh_of_twice_the_distance_over_the_radius(batch: ClickBatch) -> None:
    wanted = looped(min, 1.0, lambda distance, _: math.tanh(2 * distance / 6.0))
    torch.testing.assert_close(TanhDistance(radius=6.0)(batch, SIZE), wanted)


def test_half_width_gaussian_is_a_half_at_half_its_width(batch: ClickBatch) -> None:
    wanted = looped(max, 0.0, lambda distance, _: math.exp(-4 * math.log(2) * distance**2 / 6.0**2))
    maps = HalfWidthGaussian(width=6.0)(batch, SIZE)
    torch.testing.assert_close(maps, wanted)
    assert maps[0, 0, 5, 3] == pytest.approx(0.5, abs=1e-4)  # three pixels below the click at (2, 3)


@pytest.mark.parametrize(("union", "function"), [("max", max), ("min", min)])
def test_gaussian_has_the_same_width_at_each_click(
    union: str, function: Callable[..., float], batch: ClickBatch
) -> None:
    wanted = looped(function, 0.0, lambda distance, _: gaussian(distance, 2.5))
    torch.testing.assert_close(Gaussian(2.5, union=union)(batch, SIZE), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(("union", "function"), [("max", max), ("min", min)])
def test_spatial_dct_is_as_wide_as_each_clicks_drag(
    union: str, function: Callable[..., float], batch: ClickBatch
) -> None:
    wanted = looped(
        function, 0.0, lambda distance, click: gaussian(distance, max(0.5 * (click.radius or 0.0), 1.5))
    )
    torch.testing.assert_close(SpatialDCT(0.5, min_sigma=1.5, union=union)(batch, SIZE), wanted)  # type: ignore[arg-type]


def test_paper_s_minimum_makes_two_distant_clicks_vanish_and_the_maximum_keeps_both() -> None:
    clicks = ClickBatch.from_clicks([[Click(5, 5, radius=10.0), Click(30, 30, radius=10.0)]])
    printed, ours = (SpatialDCT(union=union)(clicks, (36, 36))[0, 0] for union in ("min", "max"))  # type: ignore[arg-type]
    assert printed.max() < 0.05
    assert printed[5, 5] == printed[30, 30] == pytest.approx(math.exp(-2 * 25**2 / (2 * 5**2)))
    assert ours[5, 5] == ours[30, 30] == 1


def test_click_of_no_radius_still_leaves_a_dot() -> None:
    dot = SpatialDCT(min_sigma=1.0)(ClickBatch.from_clicks([[Click(4, 4, radius=0.0)]]), (9, 9))[0, 0]
    assert dot[4, 4] == 1
    assert dot[4, 5] == pytest.approx(math.exp(-0.5))


def test_spatial_dct_passes_its_gradient_to_the_radius() -> None:
    radii = torch.tensor([[3.0, 6.0]], dtype=torch.float64, requires_grad=True)
    coords = torch.tensor([[[2.0, 2.0], [5.0, 7.0]]], dtype=torch.float64)
    labels = torch.tensor([[1, 0]])
    assert torch.autograd.gradcheck(lambda r: SpatialDCT()(ClickBatch(coords, labels, r), (8, 9)), radii)


def test_padding_passes_no_gradient_that_is_not_a_number(batch: ClickBatch) -> None:
    radii = batch.radii.clone().requires_grad_()
    SpatialDCT()(batch.with_radii(radii), SIZE).sum().backward()
    assert radii.grad is not None
    assert radii.grad.isfinite().all()
    assert radii.grad[0, 1] > 0
    assert radii.grad[1, 0] == 0  # its width is the smallest possible


def test_spatial_dct_without_a_radius_gives_advice() -> None:
    with pytest.raises(
        ValueError,
        match="SpatialDCT needs a radius for each click, got a click without one; give one, or turn on "
        "auto_drag",
    ):
        SpatialDCT()(ClickBatch.from_clicks([[Click(1, 1)]]), (4, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Euclidean(limit=0), "a click encoder's limit must be a number above 0, got 0"),
        (lambda: Disk(radius=-1), "radius must be a number above 0, got -1"),
        (lambda: Gaussian(sigma=math.nan), "sigma must be a number above 0, got nan"),
        (lambda: SpatialDCT(sigma_scale=math.inf), "sigma_scale must be a number above 0, got inf"),
        (lambda: SpatialDCT(union="sum"), "unknown union of Gaussians 'sum'; known: max, min"),  # type: ignore[arg-type]
    ],
)
def test_argument_out_of_range_is_refused(make: Callable[[], ClickEncoder], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(params=CLICK_ENCODERS.names())
def encoder(request: pytest.FixtureRequest) -> ClickEncoder:
    if request.param == "SuperpixelGuidance":
        pytest.importorskip("skimage")
    encoder = CLICK_ENCODERS.get(request.param)()
    if encoder.needs_image:
        image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
        encoder.forward = partial(encoder.forward, prepared=encoder.prepare(image))  # type: ignore[method-assign]
    return encoder


class TestContract:
    """Contract of every registered encoder."""

    def test_maps_are_float32_between_0_and_1(self, encoder: ClickEncoder, batch: ClickBatch) -> None:
        maps = encoder(batch, SIZE)
        assert maps.shape == (3, encoder.num_maps, *SIZE)
        assert maps.dtype == torch.float32
        assert 0 <= maps.min() <= maps.max() <= 1

    def test_each_image_is_encoded_as_if_it_were_alone(
        self, encoder: ClickEncoder, batch: ClickBatch
    ) -> None:
        maps = encoder(batch, SIZE)
        for index, clicks in enumerate(CLICKS):
            assert torch.equal(maps[index : index + 1], encoder(ClickBatch.from_clicks([clicks]), SIZE))

    def test_padding_leaves_no_trace_at_any_position(self, encoder: ClickEncoder, batch: ClickBatch) -> None:
        coords, labels, radii = torch.full((3, 1, 2), 4.0), torch.full((3, 1), -1), torch.full((3, 1), 5.0)
        padded = ClickBatch(
            torch.cat([coords, batch.coords], 1),
            torch.cat([labels, batch.labels], 1),
            torch.cat([radii, batch.radii], 1),
        )
        assert torch.equal(encoder(padded, SIZE), encoder(batch, SIZE))

    def test_clicks_of_one_sign_leave_the_other_channel_as_without_clicks(
        self, encoder: ClickEncoder
    ) -> None:
        nothing = encoder(ClickBatch.empty(1), SIZE)[0]
        positive = encoder(ClickBatch.from_clicks([[Click(3, 4, radius=2.0)]]), SIZE)[0]
        negative = encoder(ClickBatch.from_clicks([[Click(3, 4, positive=False, radius=2.0)]]), SIZE)[0]
        assert torch.equal(positive[1], nothing[1])
        assert torch.equal(negative[0], nothing[0])
        assert torch.equal(positive[0], negative[1])
        assert not torch.equal(positive[0], nothing[0])

    def test_click_shows_most_at_its_own_pixel(self, encoder: ClickEncoder) -> None:
        change = (
            encoder(ClickBatch.from_clicks([[Click(3, 4, radius=2.0)]]), SIZE)[0, 0]
            - encoder(ClickBatch.empty(1), SIZE)[0, 0]
        )
        assert change.abs()[3, 4] == change.abs().max() > 0

    def test_click_outside_the_map_is_not_an_error(self, encoder: ClickEncoder) -> None:
        assert encoder(ClickBatch.from_clicks([[Click(-20, 400, radius=2.0)]]), SIZE).isfinite().all()

    def test_maps_come_out_on_the_clicks_device(self, encoder: ClickEncoder, batch: ClickBatch) -> None:
        assert encoder(batch, SIZE).device == batch.device

    def test_network_takes_it_by_its_short_name(self, encoder: ClickEncoder) -> None:
        assert isinstance(
            DCTNet(DCTNetConfig(**TINY, click_encoder=type(encoder).__name__)).click_encoder, type(encoder)
        )


RING = """
import torch
from dct_seg import ClickEncoder

class Ring(ClickEncoder):
    def __init__(self, width=2.0):
        super().__init__()
        self.width = width

    def forward(self, clicks, size):
        return torch.zeros(len(clicks), 2, *size)
"""


def test_third_party_s_encoder_is_used_by_its_short_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, group="dct_seg.click_encoders", name="Ring", code=RING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(CLICK_ENCODERS, "_entries", dict(CLICK_ENCODERS._entries))
    monkeypatch.setattr(CLICK_ENCODERS, "_plugins_loaded", False)
    net = DCTNet(DCTNetConfig(**TINY, click_encoder="Ring", click_encoder_options={"width": 3.0})).eval()
    assert type(net.click_encoder).__module__ == "ring_plugin"
    assert net.click_encoder.width == 3.0
    assert net(torch.rand(1, 3, 32, 32), ClickBatch.from_clicks([[Click(1, 1)]])).shape == (1, 1, 32, 32)


def test_option_that_an_encoder_does_not_take_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"click encoder 'Disk' does not take \{'sigma': 3\.0\}: .*unexpected keyword argument 'sigma'",
    ):
        DCTNet(DCTNetConfig(**TINY, click_encoder="Disk", click_encoder_options={"sigma": 3.0}))


@pytest.mark.parametrize("seed", range(4))
def test_maps_with_and_without_a_gradient_are_bit_identical(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2, (3, 5), generator=draw)
    clicks = ClickBatch(
        torch.rand(3, 5, 2, generator=draw) * 40, labels, torch.rand(3, 5, generator=draw) * 9
    )
    learning = clicks.with_radii(clicks.radii.clone().requires_grad_())
    maps = SpatialDCT()(learning, (33, 47))
    assert maps.requires_grad
    assert torch.equal(SpatialDCT()(clicks, (33, 47)), maps)
