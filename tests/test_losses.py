"""The losses against values computed by hand and finite differences."""

import math

import pytest
import torch
from torch.nn import functional as F

from lib.losses import (
    Centring,
    FairnessPrior,
    FeatureHead,
    SinkhornBalance,
    UniformPrior,
    collapse_diagnostics,
    concept_alignment,
    own_view,
    pairwise_cross_entropy,
    self_training,
    sinkhorn,
    video_weights,
)


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def test_two_global_and_eight_local_views_make_the_eighteen_pairs_of_dino():
    pairs = (~own_view(2, 10)).nonzero().tolist()
    assert len(pairs) == 18 and all(g != v for g, v in pairs)


@pytest.mark.parametrize(("teacher", "student"), [(1, 1), (2, 1)])
def test_views_that_leave_nothing_to_compare_are_an_error(teacher, student):
    with pytest.raises(ValueError, match="student views"):
        own_view(teacher, student)


def test_distillation_equals_the_hand_computed_cross_entropy_and_skips_the_view_itself():
    teacher = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]])
    student = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]], [[0.6, 0.4]]]).log()

    def cross_entropy(p, q):
        return -(p * math.log(q) + (1 - p) * math.log(1 - q))

    by_hand = (
        cross_entropy(0.75, 0.2) + cross_entropy(0.75, 0.6) + cross_entropy(0.5, 0.9) + cross_entropy(0.5, 0.6)
    ) / 4
    assert pairwise_cross_entropy(teacher, student).item() == pytest.approx(by_hand, abs=1e-6)
    assert pairwise_cross_entropy(teacher, student).item() == pytest.approx(by_hand, abs=1e-6)


def test_distillation_is_lowest_where_the_student_agrees_and_is_then_the_teachers_entropy():
    logits = random_logits(1, 3, 5).expand(2, 3, 5)
    teacher = logits.softmax(-1)
    entropy = torch.special.entr(teacher).sum(-1).mean()
    assert torch.allclose(pairwise_cross_entropy(teacher, logits), entropy)
    assert pairwise_cross_entropy(teacher, random_logits(2, 3, 5, seed=1)) > entropy


def test_distillation_gradient_is_prediction_minus_target_and_none_reaches_the_teacher():
    teacher_logits = random_logits(2, 3, 4).requires_grad_()
    student = random_logits(2, 3, 4, seed=1).requires_grad_()
    teacher = teacher_logits.softmax(-1)
    pairwise_cross_entropy(teacher, student).backward()
    # Two pairs, three videos: view 0 is taught by view 1 and the other way round.
    assert torch.allclose(student.grad, (student.softmax(-1) - teacher.flip(0)).detach() / 6)
    assert teacher_logits.grad is None


def test_distillation_refuses_a_teacher_and_a_student_of_different_spaces():
    with pytest.raises(ValueError, match="number of videos or concepts"):
        pairwise_cross_entropy(torch.full((2, 3, 4), 0.25), torch.zeros(2, 3, 5))


def test_alignment_crosses_the_spaces_and_treats_them_alike():
    spaces = {
        "teacher_category": random_logits(2, 3, 4, seed=0).softmax(-1).requires_grad_(),
        "student_category": random_logits(3, 3, 4, seed=1).requires_grad_(),
        "teacher_description": random_logits(2, 3, 4, seed=2).softmax(-1).requires_grad_(),
        "student_description": random_logits(3, 3, 4, seed=3).requires_grad_(),
    }
    loss = concept_alignment(**spaces)
    crossed = [
        -(spaces[t][g] * spaces[s][v].log_softmax(-1)).sum(-1).mean()
        for t, s in (("teacher_category", "student_description"), ("teacher_description", "student_category"))
        for g, v in ((0, 1), (0, 2), (1, 0), (1, 2))
    ]
    assert torch.allclose(loss, torch.stack(crossed).mean())
    loss.backward()
    assert spaces["teacher_category"].grad is None and spaces["teacher_description"].grad is None
    assert spaces["student_category"].grad.abs().sum() > 0 and spaces["student_description"].grad.abs().sum() > 0


def test_uniform_prior_is_zero_for_balanced_use_and_log_k_for_a_collapse():
    balanced = 100.0 * torch.eye(4)[None]
    collapsed = torch.zeros(2, 3, 4)
    collapsed[..., 1] = 1000.0  # the other three underflow to zero
    assert UniformPrior(4, queue_size=0)(balanced).item() == pytest.approx(0, abs=1e-6)
    assert UniformPrior(4, queue_size=0)(collapsed).item() == pytest.approx(math.log(4), abs=1e-6)


def test_uniform_prior_stays_finite_in_value_and_gradient_when_concepts_underflow():
    student = torch.tensor([[[1000.0, 0.0, -1000.0]]], requires_grad=True)
    UniformPrior(3, queue_size=0)(student).backward()
    assert torch.isfinite(student.grad).all()


def test_uniform_prior_has_the_hand_computed_value_over_batch_and_memory():
    prior = UniformPrior(2, queue_size=8)
    first = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()  # one video, two views: mean 0.7
    second = torch.tensor([[[0.1, 0.9]]]).log()
    prior(first)
    mean = (0.7 + 0.1) / 2
    by_hand = math.log(2) + mean * math.log(mean) + (1 - mean) * math.log(1 - mean)
    assert prior(second).item() == pytest.approx(by_hand, abs=1e-6)


def test_uniform_prior_without_memory_has_the_gradient_of_its_definition():
    student = random_logits(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: UniformPrior(4, queue_size=0).double()(logits), student)


def test_uniform_prior_with_a_full_memory_pushes_as_hard_as_without_one():
    logits = random_logits(1, 4, 3).float()
    gradients = []
    for memory in (0, 64):
        prior = UniformPrior(3, queue_size=memory)
        for _ in range(20):  # fills the memory with copies, so that the mean stays what it is
            student = logits.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(prior(student), student)
        gradients.append(gradient)
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_memory_forgets_the_oldest_videos_first():
    prior = UniformPrior(2, queue_size=2)
    for p in (0.9, 0.6, 0.2):
        prior(torch.tensor([[[p, 1 - p]]]).log())
    assert torch.allclose(prior.queue.recent()[:, 0], torch.tensor([0.6, 0.2]))
    prior(torch.tensor([[[0.1, 0.9], [0.3, 0.7], [0.4, 0.6]]]).log())  # a batch above the size
    assert torch.allclose(prior.queue.recent()[:, 0], torch.tensor([0.3, 0.4]))


def test_one_round_of_sinkhorn_equals_the_hand_computation():
    # Weights [[1, 1], [3, 1]]: columns to one gives [[1/4, 1/2], [3/4, 1/2]], rows to one [[1/3, 2/3], [3/5, 2/5]].
    logits = torch.tensor([[1.0, 1.0], [3.0, 1.0]]).log()
    assert torch.allclose(sinkhorn(logits, 1), torch.tensor([[1 / 3, 2 / 3], [3 / 5, 2 / 5]]))


def test_sinkhorn_rows_sum_to_one_and_its_columns_approach_equal_use():
    cosines = random_logits(200, 8).tanh()
    cosines[:, 0] += 0.5  # a favourite concept
    few, many = sinkhorn(cosines / 0.04, 3), sinkhorn(cosines / 0.04, 300)
    for balanced in (few, many):
        assert torch.allclose(balanced.sum(1), torch.ones(200, dtype=torch.double), atol=1e-12)
    plain_error, few_error, many_error = ((q.sum(0) - 25).abs().max() for q in ((cosines / 0.04).softmax(1), few, many))
    assert plain_error > few_error > many_error
    assert many_error < 0.5


def test_videos_count_by_confidence_or_by_agreement_of_views_and_spaces():
    category = torch.tensor([[[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], [[0.6, 0.4], [0.4, 0.6], [0.3, 0.7]]])  # g b k
    description = torch.tensor([[[0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3], [0.4, 0.6]]])
    confidence = torch.tensor([0.6, 0.6, 0.75])  # of the means (0.6, 0.4), (0.6, 0.4), (0.25, 0.75)
    by = {name: video_weights([category, description], name) for name in ("confidence", "agreement")}
    torch.testing.assert_close(by["confidence"], confidence / confidence.mean())
    torch.testing.assert_close(by["agreement"], torch.tensor([0.0, 0.0, 3.0]))
    nothing = video_weights([category[:, :1], description[:, :1]], "agreement")
    assert nothing.tolist() == [0.0]  # no video agrees: no target, and no division by zero


def test_a_weaker_sinkhorn_lies_between_softmax_and_balance():
    logits = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 1.0, 0.0, 0.0, -1.0])
    torch.testing.assert_close(sinkhorn(logits, 5, strength=0.0), logits.softmax(1))
    torch.testing.assert_close(sinkhorn(logits, 5, strength=1.0), sinkhorn(logits, 5))
    free, half, full = (sinkhorn(logits, 50, strength=each).mean(0) for each in (0.0, 0.5, 1.0))
    assert free[0] > half[0] > full[0] and free[4] < half[4] < full[4]
    torch.testing.assert_close(full, torch.full((5,), 0.2), atol=1e-4, rtol=0)


def test_one_round_of_half_strength_equals_the_hand_computation():
    logits = torch.tensor([[2.0, 1.0], [2.0, 3.0]]).log()  # softmax: 2/3, 1/3 and 2/5, 3/5; in all 16/15 and 14/15
    weights = torch.tensor([[2.0, 1.0], [2.0, 3.0]]) / torch.tensor([16 / 15, 14 / 15]).sqrt()
    assert torch.allclose(sinkhorn(logits, 1, strength=0.5), weights / weights.sum(1, keepdim=True))


def test_the_reverse_prior_with_a_target_is_the_reverse_divergence():
    student = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]).log()  # mean 0.6, 0.4
    target, mean = torch.tensor([0.75, 0.25]), torch.tensor([0.6, 0.4])
    fairness = FairnessPrior(2, queue_size=0)
    torch.testing.assert_close(fairness(student, target), (target * (target / mean).log()).sum())
    torch.testing.assert_close(fairness(student, torch.tensor([0.5, 0.5])), fairness(student))


def test_a_prior_with_a_target_is_the_divergence_from_it():
    student = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]).log()  # mean 0.6, 0.4
    target, mean = torch.tensor([0.75, 0.25]), torch.tensor([0.6, 0.4])
    expected = (mean * (mean / target).log()).sum()
    torch.testing.assert_close(UniformPrior(2, queue_size=0)(student, target), expected)
    uniform = UniformPrior(2, queue_size=0)(student, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(uniform, UniformPrior(2, queue_size=0)(student))


def test_sinkhorn_survives_temperatures_that_overflow_without_logarithms():
    balanced = sinkhorn(torch.tensor([[1.0, -1.0], [0.5, -1.0]]) / 1e-4, 5)
    assert torch.isfinite(balanced).all() and torch.allclose(balanced.sum(1), torch.ones(2))


def test_sinkhorn_balance_uses_the_videos_before_and_returns_those_of_the_batch():
    balance = SinkhornBalance(3, global_views=2, n_iterations=4, queue_size=16)
    before, now = random_logits(2, 4, 3).float(), random_logits(2, 5, 3, seed=1).float()
    balance(before / 0.1, 0.1)
    balanced = balance(now / 0.1, 0.1)
    together = torch.cat([before, now], dim=1)  # g n k
    expected = sinkhorn(together.reshape(18, 3) / 0.1, 4).reshape(2, 9, 3)[:, 4:]
    assert torch.allclose(balanced, expected, atol=1e-6)


def test_sinkhorn_balance_without_memory_balances_the_batch_alone():
    balance = SinkhornBalance(3, global_views=1, n_iterations=4, queue_size=0)
    balance(random_logits(1, 5, 3, seed=1).float(), 1.0)
    logits = random_logits(1, 6, 3).float()
    assert torch.allclose(balance(logits, 1.0)[0], sinkhorn(logits[0], 4))


def test_centring_subtracts_a_running_mean_kept_before_the_temperature():
    centring = Centring(2, momentum=0.9)
    cosines = torch.tensor([[[0.4, 0.0]], [[0.2, 0.2]]])
    assert torch.allclose(centring(cosines / 0.1, 0.1), (cosines / 0.1).softmax(-1))  # the centre starts at zero
    assert torch.allclose(centring.centre, torch.tensor([0.03, 0.01]))
    # Another temperature later: the centre is still in cosines.
    assert torch.allclose(centring(cosines / 0.05, 0.05), ((cosines - torch.tensor([0.03, 0.01])) / 0.05).softmax(-1))
    assert torch.allclose(centring.centre, torch.tensor([0.9 * 0.03 + 0.03, 0.9 * 0.01 + 0.01]))


def make_prior(kind: str) -> torch.nn.Module:
    if kind == "penalty":
        return UniformPrior(5, queue_size=10)
    if kind == "sinkhorn":
        return SinkhornBalance(5, global_views=2, n_iterations=3, queue_size=10)
    return Centring(5, momentum=0.9)


def apply_prior(prior: torch.nn.Module, logits: torch.Tensor) -> torch.Tensor:
    return prior(logits) if isinstance(prior, UniformPrior) else prior(logits, 0.1)


@pytest.mark.parametrize("kind", ["penalty", "sinkhorn", "centring"])
def test_a_prior_restored_from_its_state_goes_on_to_the_bit(kind):
    prior, restored = make_prior(kind), make_prior(kind)
    apply_prior(prior, random_logits(2, 4, 5).float())
    restored.load_state_dict(prior.state_dict())
    later = [random_logits(2, 4, 5, seed=seed).float() for seed in (1, 2, 3)]
    for logits in later:
        assert torch.equal(apply_prior(prior, logits), apply_prior(restored, logits))


@pytest.mark.parametrize("kind", ["sinkhorn", "centring"])
def test_no_gradient_leaves_a_balanced_teacher(kind):
    prior = make_prior(kind)
    logits = random_logits(2, 4, 5).float().requires_grad_()
    assert not apply_prior(prior, logits).requires_grad
    assert not any(value.requires_grad for value in prior.state_dict(keep_vars=True).values())


def make_head(seed: int = 0) -> FeatureHead:
    generator = torch.Generator().manual_seed(seed)
    return FeatureHead(6, hidden=16, bottleneck=4, prototypes=10, generator=generator)


def test_the_feature_head_equals_dinos_layers_with_torchs_weight_norm():
    head, features = make_head(), random_logits(3, 6).float()
    last = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 10, bias=False))
    with torch.no_grad():
        last.parametrizations.weight.original0.fill_(1.0)
        last.parametrizations.weight.original1.copy_(head.prototypes)
    assert torch.allclose(head(features), last(F.normalize(head.mlp(features), dim=-1)), atol=1e-6)
    assert head(features).abs().max() <= 1 + 1e-6
    assert [type(layer).__name__ for layer in head.mlp] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


def test_the_feature_head_is_drawn_from_its_generator_and_from_nothing_else():
    state = torch.get_rng_state()
    first, same, other = make_head(0), make_head(0), make_head(1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.prototypes, other.prototypes)
    assert all(parameter.abs().max() < 0.2 for parameter in first.parameters())


def test_self_distillation_without_language_trains_the_head_and_leaves_the_teacher():
    student_head, teacher_head, centring = make_head(0), make_head(1), Centring(10, momentum=0.9)
    views = random_logits(3, 5, 6).float()
    loss = pairwise_cross_entropy(centring(teacher_head(views[:2]) / 0.04, 0.04), student_head(views) / 0.1)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in student_head.parameters())
    assert all(parameter.grad is None for parameter in teacher_head.parameters())


def test_the_diagnostics_tell_a_collapse_from_balanced_use():
    one_hot = F.one_hot(torch.arange(4), 4).float().expand(2, 4, 4)
    student = 10 * one_hot.clone()
    student[1, 0] = student[1, 1]  # one video of one view chooses another concept
    healthy = collapse_diagnostics(teacher=one_hot, student=student, features=torch.eye(4))
    assert healthy == {
        "teacher_entropy": pytest.approx(0),
        "batch_entropy": pytest.approx(math.log(4)),
        "feature_spread": pytest.approx(math.sqrt(3 / 4)),
        "agreement": pytest.approx(7 / 8),
        "concepts_used": 4,
    }
    collapsed = collapse_diagnostics(teacher=one_hot[:, :1].expand(2, 4, 4), student=student, features=torch.ones(4, 4))
    assert collapsed["batch_entropy"] == pytest.approx(0) and collapsed["feature_spread"] == pytest.approx(0)


def test_features_that_point_everywhere_have_spread_one():
    features = torch.cat([torch.eye(4), -torch.eye(4)]) * 3.0
    uniform = torch.full((2, 8, 4), 0.25)
    diagnostics = collapse_diagnostics(teacher=uniform, student=uniform, features=features)
    assert diagnostics["feature_spread"] == pytest.approx(1.0)
    assert diagnostics["teacher_entropy"] == pytest.approx(math.log(4))


# Self-training
# ---------------------------------------------------------------------------------------------------------


def test_self_training_is_the_cross_entropy_with_confident_first_concepts_of_other_views():
    teacher = torch.tensor([[[0.7, 0.3], [0.45, 0.55]], [[0.6, 0.4], [0.2, 0.8]]])  # 'g b k'
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [3.0, 0.0]]], requires_grad=True)  # 'v b k'
    loss, share = self_training(teacher, student, threshold=0.58)
    # Confident: view 0 of video 0 (concept 0) labels view 1; view 1 of both videos (concepts 0 and 1) labels view 0.
    by_hand = [-math.log(0.5), -math.log(math.e / (math.e + 1)), -math.log(math.e**2 / (math.e**2 + 1))]
    assert loss.item() == pytest.approx(sum(by_hand) / 3) and share.item() == 0.75
    loss.backward()
    # d/dz of the cross-entropy is p - y, over three pairs; video 1's view 1 has no confident label.
    p = 1 / (1 + math.e)
    torch.testing.assert_close(student.grad[0, 0], torch.tensor([-p, p]) / 3)
    assert student.grad[1, 1].abs().sum() == 0
    loss, share = self_training(teacher, student, threshold=0.9)
    assert loss.item() == share.item() == 0


def test_fairness_is_the_divergence_of_the_mean_prediction_from_uniform():
    prior = FairnessPrior(2, queue_size=2)
    first = torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]).log().requires_grad_()  # 'v b k', mean [0.7, 0.3]
    loss = prior(first)
    assert loss.item() == pytest.approx(0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3))
    loss.backward()
    # d/dm_k = -1 / (k m_k); a video's share of the mean is half, and the softmax's Jacobian p (1 - p)
    slope = 0.5 * 0.9 * 0.1 * (-0.5 / 0.7 + 0.5 / 0.3)
    torch.testing.assert_close(first.grad[0, 0], torch.tensor([slope, -slope]))
    second = prior(torch.tensor([[[0.1, 0.9], [0.5, 0.5]]]).log())  # with the two videos before: mean [0.5, 0.5]
    assert second.item() == pytest.approx(0, abs=1e-6)
