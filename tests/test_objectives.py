from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lib.backbone import VideoCLIPOutput
from lib.concepts import ConceptSpace
from lib.losses import concept_alignment, pairwise_cross_entropy, self_training, sinkhorn
from lib.objectives import Objective, Result, check_result, make_objective
from lib.run.fingerprint import fingerprint
from lib.run.params import ParamsError

# all that the objective without language reads of a model
WIDTH_7 = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(hidden_size=7)))


def space(seed, k=4, d=6):
    rows = torch.randn(k, d, generator=torch.Generator().manual_seed(seed))
    return ConceptSpace([f"label {i}" for i in range(k)], F.normalize(rows, dim=-1))


def outputs(count, seed, b=5, w=7, d=6):
    draw = torch.Generator().manual_seed(seed)
    return [
        VideoCLIPOutput(*(torch.randn(b, size, generator=draw).requires_grad_() for size in (w, d)))
        for _ in range(count)
    ]


def test_lss_is_distillation_plus_alignment_plus_prior_with_their_weights(tiny):
    params = tiny(alignment_weight=0.7, uniform_prior_weight=0.3, distillation_weight=1.5, target_normalisation="none")
    spaces = {"category": space(0), "description": space(1)}
    teacher, student = outputs(2, 2), outputs(3, 3)
    result = make_objective(params, None, spaces)(teacher, student, torch.zeros(5))

    p_t = {
        n: torch.stack([s.logits(v.embedding, params.teacher_temperature).softmax(-1) for v in teacher])
        for n, s in spaces.items()
    }
    p_s = {
        n: torch.stack([s.logits(v.embedding, params.student_temperature) for v in student]) for n, s in spaces.items()
    }
    distillation = sum(pairwise_cross_entropy(p_t[n], p_s[n]) for n in spaces)
    alignment = concept_alignment(
        teacher_category=p_t["category"],
        student_category=p_s["category"],
        teacher_description=p_t["description"],
        student_description=p_s["description"],
    )
    mean = {n: p_s[n].softmax(-1).mean((0, 1)) for n in spaces}
    prior = sum(torch.log(torch.tensor(4.0)) + (m * m.log()).sum() for m in mean.values())
    torch.testing.assert_close(result.loss, 1.5 * distillation + 0.7 * alignment + 0.3 * prior)
    assert set(result.terms) == {
        "distillation_category",
        "distillation_description",
        "alignment",
        "prior_category",
        "prior_description",
    }


def test_alignment_with_the_best_concept_alone_and_normalised_logits_equal_the_equations(tiny):
    settings = dict(target_normalisation="none", uniform_prior_weight=0.0, distillation_weight=0.0)
    params = tiny(**settings, alignment_targets="best", normalise_logits=True)
    spaces = {"category": space(0), "description": space(1)}
    teacher, student = outputs(2, 2), outputs(3, 3)
    result = make_objective(params, None, spaces)(teacher, student, torch.zeros(5))

    def logits(name, views, temperature):
        cosines = torch.stack([F.normalize(view.embedding, dim=-1) @ spaces[name].vectors.T for view in views])
        return cosines / cosines.norm(dim=-1, keepdim=True) / temperature

    best = {name: F.one_hot(logits(name, teacher, 1.0).argmax(-1), 4).float() for name in spaces}
    of_student = {name: logits(name, student, params.student_temperature) for name in spaces}
    expected = concept_alignment(
        teacher_category=best["category"],
        student_category=of_student["category"],
        teacher_description=best["description"],
        student_description=of_student["description"],
    )
    torch.testing.assert_close(result.terms["alignment"], expected)


def test_weights_of_videos_scale_their_distillation(tiny):
    settings = dict(target_normalisation="none", uniform_prior_weight=0.0, alignment_weight=0.0)
    params, spaces = tiny(**settings, video_weights="confidence"), {"category": space(0), "description": space(1)}
    teacher, student = outputs(2, 2), outputs(3, 3)
    result = make_objective(params, None, spaces)(teacher, student, torch.zeros(5))

    def logits(name, views, temperature):
        return torch.stack([spaces[name].logits(view.embedding, temperature) for view in views])

    targets = {name: logits(name, teacher, params.teacher_temperature).softmax(-1) for name in spaces}
    weights = torch.cat(list(targets.values())).mean(0).amax(-1)
    weights = weights / weights.mean()
    expected = 0.0
    for name in spaces:
        of_student = logits(name, student, params.student_temperature).log_softmax(-1)
        pairs = [-(targets[name][g] * of_student[v]).sum(-1) for g in range(2) for v in range(3) if g != v]
        expected = expected + (torch.stack(pairs).mean(0) * weights).mean()
    torch.testing.assert_close(result.loss, expected)
    assert torch.equal(result.teacher, targets["category"])  # what is logged are probabilities


def test_the_prior_of_the_objective_can_be_reversed(tiny):
    params = tiny(prior_divergence="reverse", concept_spaces=["category"], alignment_weight=0.0, queue_size=0)
    student = outputs(3, 3)
    result = make_objective(params, None, {"category": space(0)})(outputs(2, 2), student, torch.zeros(5))
    logits = torch.stack([space(0).logits(view.embedding, params.student_temperature) for view in student])
    expected = -torch.log(torch.tensor(4.0)) - logits.softmax(-1).mean((0, 1)).log().mean()
    torch.testing.assert_close(result.terms["prior_category"], expected)


def test_the_prior_can_follow_the_frequencies_that_a_weaker_balance_leaves(tiny):
    settings = dict(sinkhorn_strength=0.4, prior_target="teacher", queue_size=0, alignment_weight=0.0)
    params = tiny(**settings, concept_spaces=["category"], uniform_prior_weight=1.0)
    concepts, teacher, student = space(0), outputs(2, 2), outputs(3, 3)
    result = make_objective(params, None, {"category": concepts})(teacher, student, torch.zeros(5))
    of_teacher, of_student = (
        torch.stack([concepts.logits(view.embedding, temperature) for view in views])
        for views, temperature in ((teacher, params.teacher_temperature), (student, params.student_temperature))
    )
    target = sinkhorn(of_teacher.transpose(0, 1).flatten(0, 1), params.sinkhorn_iterations, strength=0.4).mean(0)
    mean = of_student.softmax(-1).mean((0, 1))
    torch.testing.assert_close(result.terms["prior_category"], (mean * (mean / target).log()).sum())
    with pytest.raises(ParamsError, match="prior_target: teacher takes"):
        tiny(prior_target="teacher", target_normalisation="none")


def test_only_the_student_gets_a_gradient(tiny):
    spaces = {"category": space(0), "description": space(1)}
    for ablation in ("lss", "no_language", "must", "supervised"):
        objective = make_objective(tiny(ablation), WIDTH_7, spaces)
        teacher, student = outputs(2, 2), outputs(3, 3)
        objective(teacher, student, torch.tensor([0, 1, 2, 3, 0])).loss.backward()
        assert all(x.grad is None for view in teacher for x in view)
        assert any(x.grad is not None and x.grad.abs().sum() > 0 for view in student for x in view)
        learned = [name for name, p in objective.named_parameters() if p.requires_grad]
        assert all(name.startswith("head.") for name in learned)


def test_the_supervised_loss_is_the_cross_entropy_of_every_view(tiny):
    params, labels, student = tiny(), torch.tensor([0, 1, 2, 3, 0]), outputs(3, 3)
    objective = make_objective(tiny("supervised"), None, {"category": space(0)})
    result = objective(outputs(2, 2), student, labels)
    by_view = [F.cross_entropy(space(0).logits(view.embedding, params.student_temperature), labels) for view in student]
    torch.testing.assert_close(result.loss, torch.stack(by_view).mean())


def test_must_is_self_training_plus_weighted_fairness_at_clips_temperature(tiny):
    params = tiny("must", must_threshold=0.3, must_fairness_weight=0.7)
    teacher, student = outputs(2, 2), outputs(2, 3)
    objective = make_objective(params, None, {"category": space(0)})
    result = objective(teacher, student, torch.zeros(5))
    p_t, p_s = (torch.stack([space(0).logits(v.embedding, 0.04) for v in views]) for views in (teacher, student))
    loss, confident = self_training(p_t.softmax(-1), p_s, threshold=0.3)
    mean = p_s.softmax(-1).mean((0, 1))
    fairness = -torch.log(torch.tensor(4.0)) - mean.log().mean()
    torch.testing.assert_close(result.loss, loss + 0.7 * fairness)
    assert result.terms["confident"] == confident > 0
    assert [name for name, _ in objective.named_buffers() if "queue" in name] == ["fairness.queue.rows"]


def test_sinkhorn_balances_both_spaces_and_its_queue_is_in_the_checkpoint(tiny):
    spaces = {"category": space(0), "description": space(1)}
    objective = make_objective(tiny(uniform_prior_weight=0.0, sinkhorn_iterations=50), None, spaces)
    result = objective(outputs(2, 2), outputs(3, 3), torch.zeros(5))
    torch.testing.assert_close(result.teacher.mean((0, 1)), torch.full((4,), 0.25), atol=0.02, rtol=0)
    kept = {key.split(".")[1] for key in objective.state_dict() if key.startswith("normalisations")}
    assert kept == {"category", "description"}


def test_teacher_and_student_heads_start_alike(tiny):
    objective = make_objective(tiny("no_language"), WIDTH_7, {})
    for a, b in zip(objective.head.parameters(), objective.teacher_head.parameters()):
        assert torch.equal(a, b) and a.requires_grad and not b.requires_grad


class Own(Objective):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, teacher, student, labels):
        loss = self.scale * sum(view.embedding.square().mean() for view in student)
        return Result(loss, {"size": loss}, torch.full((2, 5, 4), 0.25), torch.zeros(3, 5, 4))


FACTOR = 1.0


def helper(x):
    return FACTOR * x


class OwnToo(Own):
    def forward(self, teacher, student, labels):
        result = Own.forward(self, teacher, student[:1], labels)
        return result._replace(loss=helper(result.loss))


def test_the_fingerprint_of_an_own_objective_covers_source_attributes_and_state():
    assert fingerprint(Own()) == fingerprint(Own())
    with_weight = Own()
    with_weight.weight = torch.nn.Parameter(torch.zeros(()))
    assert len({fingerprint(objective) for objective in (Own(), Own(2.0), OwnToo(), with_weight)}) == 4


def test_the_fingerprint_covers_constants_of_the_class_and_refuses_what_is_no_module(monkeypatch):
    before = fingerprint(OwnToo())
    monkeypatch.setattr(OwnToo, "rate", 0.5, raising=False)
    assert fingerprint(OwnToo()) != before
    with pytest.raises(TypeError, match="not a class; call it"):
        fingerprint(OwnToo)
    with pytest.raises(TypeError, match="must be an instance of a torch.nn.Module.*not a function"):
        fingerprint(outputs)


def test_the_fingerprint_covers_constants_and_functions_that_a_method_refers_to(monkeypatch):
    before = fingerprint(OwnToo())
    monkeypatch.setattr(f"{__name__}.FACTOR", 2.0)
    changed = fingerprint(OwnToo())
    monkeypatch.setattr(f"{__name__}.helper", lambda x: x + 1.0)
    assert len({before, changed, fingerprint(OwnToo())}) == 3
    listed = OwnToo()
    listed.weights = [1.0, 2.0]
    assert fingerprint(listed) != fingerprint(OwnToo())


def result_with(**changes):
    loss = torch.zeros((), requires_grad=True)
    return Result(loss, {"size": loss}, torch.zeros(2, 5, 4), torch.zeros(3, 5, 4))._replace(**changes)


@pytest.mark.parametrize(
    "result, error",
    [
        (torch.zeros(()), r"Own\.forward must return lib\.objectives\.Result\(.*it returned Tensor"),
        (result_with(terms=[1.0]), "terms is a dict of scalars"),
        (result_with(terms={"loss": torch.zeros(())}), "none of them called epoch, loss, "),
        (result_with(terms={"margin": 0.5}), "the term margin must be a scalar tensor"),
        (result_with(terms={"margin": torch.zeros(5)}), "the term margin must be a scalar tensor"),
        (result_with(loss=torch.zeros(3, requires_grad=True)), "the loss must be a scalar"),
        (result_with(loss=torch.zeros(())), "depends on the student's outputs"),
        (result_with(teacher=torch.zeros(5, 4)), r"teacher has shape \(5, 4\), not \(2, 5\) and concepts"),
        (result_with(student=torch.zeros(2, 5, 4)), r"student has shape \(2, 5, 4\), not \(3, 5\)"),
    ],
)
def test_what_an_own_objective_returns_is_checked(result, error):
    with pytest.raises((TypeError, ValueError), match=error):
        check_result(Own(), result, (2, 3, 5))
    check_result(Own(), result_with(), (2, 3, 5))
