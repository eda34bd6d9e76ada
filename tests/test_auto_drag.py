"""The Auto-Drag-Head: a radius in pixels for each click."""

import math

import torch
from networks import some_clicks, tiny_net
from torch import Tensor

from dct_seg import AutoDragHead, Click, ClickBatch
from dct_seg.models.auto_drag import LARGEST_RING, NUM_ANGLES, NUM_RINGS, SMALLEST_RING

SIZE = (32, 32)


def head() -> AutoDragHead:
    torch.manual_seed(0)
    return AutoDragHead([4, 6], hidden=32)


def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, c, s, s, generator=generator) for c, s in [(4, 8), (6, 4)]]


def test_rings_lie_around_the_click_at_growing_radii() -> None:
    offsets = head().get_buffer("offsets")
    assert offsets.shape == (NUM_RINGS, NUM_ANGLES, 2)
    lengths = offsets.norm(dim=-1)
    torch.testing.assert_close(lengths, lengths[:, :1].expand_as(lengths))
    assert lengths[0, 0].item() == SMALLEST_RING
    torch.testing.assert_close(lengths[-1, 0], torch.tensor(LARGEST_RING))
    torch.testing.assert_close(
        lengths[1:, 0] / lengths[:-1, 0], (lengths[1, 0] / lengths[0, 0]).expand(NUM_RINGS - 1)
    )
    torch.testing.assert_close(offsets.sum(1), torch.zeros(NUM_RINGS, 2), atol=1e-3, rtol=0)


def test_untrained_head_guesses_around_the_middle_of_its_rings() -> None:
    radii = head()(features(), some_clicks(), torch.zeros(2, 1, *SIZE), SIZE).exp()
    assert radii.shape == (2, 3)
    assert SMALLEST_RING < radii.min() <= radii.max() < LARGEST_RING
    assert abs(radii.log().mean() - math.log(SMALLEST_RING * LARGEST_RING) / 2) < 1


def test_each_click_gets_the_same_radius_as_alone() -> None:
    module, previous = head(), torch.rand(2, 1, *SIZE)
    together = module(features(), some_clicks(), previous, SIZE)
    for image, clicks in enumerate(some_clicks().to_clicks()):
        for place, click in enumerate(clicks):
            alone = module(
                [f[image : image + 1] for f in features()],
                ClickBatch.from_clicks([[click]]),
                previous[image : image + 1],
                SIZE,
            )
            torch.testing.assert_close(together[image, place], alone[0, 0])


def test_sign_previous_mask_and_position_all_matter() -> None:
    module, nothing = head(), torch.zeros(1, 1, *SIZE)
    mine = [f[:1] for f in features()]

    def radius(click: Click, previous: Tensor = nothing) -> float:
        return module(mine, ClickBatch.from_clicks([[click]]), previous, SIZE).item()

    plain = radius(Click(9, 12))
    assert plain != radius(Click(9, 12, positive=False))
    assert plain != radius(Click(9, 20))
    assert plain != radius(Click(9, 12), torch.ones(1, 1, *SIZE))
    assert plain == radius(Click(9, 12, radius=3.0))


def test_no_gradient_flows_into_the_image_s_features_or_the_mask() -> None:
    module, mine = head(), [f.requires_grad_() for f in features()]
    previous = torch.rand(2, 1, *SIZE, requires_grad=True)
    module(mine, some_clicks(), previous, SIZE).sum().backward()
    assert all(f.grad is None for f in [*mine, previous])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_without_clicks_there_is_nothing_to_predict() -> None:
    assert head()(features(), ClickBatch.empty(2), torch.zeros(2, 1, *SIZE), SIZE).shape == (2, 0)


def test_head_learns_the_radius_of_a_disc_under_the_click() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, cols = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def discs() -> tuple[list[Tensor], ClickBatch, Tensor]:
        true = torch.rand(16, generator=generator) * 20 + 4
        inside = (torch.hypot(rows - 32, cols - 32) <= true[:, None, None]).float()[:, None]
        return (
            [torch.cat([inside, 1 - inside], 1)],
            ClickBatch.from_clicks([[Click(32, 32)]] * 16),
            true.log(),
        )

    torch.manual_seed(3)
    module = AutoDragHead([2], hidden=32)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    nothing = torch.zeros(16, 1, 64, 64)
    for _ in range(120):
        image, clicks, wanted = discs()
        loss = (module(image, clicks, nothing, (64, 64))[:, 0] - wanted).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, clicks, wanted = discs()
    assert (
        module(image, clicks, nothing, (64, 64))[:, 0] - wanted
    ).abs().mean() < 0.15  # about 15 % of the radius


def test_head_sees_the_image_border_not_the_padding() -> None:
    net = tiny_net(auto_drag=True)
    clicks = ClickBatch.from_clicks([[Click(30, 20)]])
    radii = []
    for height in (
        33,
        64,
    ):  # 33 rows are padded to 64: the features cover as much, the border is 3 or 34 rows below the click
        features = [torch.zeros_like(feature) for feature in net.encode_image(torch.zeros(1, 3, height, 64))]
        radii.append(net.log_radii(features, clicks, None, (height, 64)).item())
    assert radii[0] != radii[1]
