import torch
from torch.nn import functional as F

from lib.backbone import VideoCLIPOutput
from lib.concepts import ConceptSpace
from lib.losses import concept_alignment, concept_distillation
from lib.objectives import ConceptObjective, FeatureObjective, LabelObjective


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
    result = ConceptObjective(params, spaces)(teacher, student, torch.zeros(5))

    p_t = {
        n: torch.stack([s.logits(v.embedding, params.teacher_temperature).softmax(-1) for v in teacher])
        for n, s in spaces.items()
    }
    p_s = {
        n: torch.stack([s.logits(v.embedding, params.student_temperature) for v in student]) for n, s in spaces.items()
    }
    distillation = sum(concept_distillation(p_t[n], p_s[n]) for n in spaces)
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


def test_only_the_student_gets_a_gradient(tiny):
    for objective in (
        ConceptObjective(tiny(), {"category": space(0), "description": space(1)}),
        FeatureObjective(tiny("no_language"), 7),
        LabelObjective(tiny(), space(0)),
    ):
        teacher, student = outputs(2, 2), outputs(3, 3)
        objective(teacher, student, torch.tensor([0, 1, 2, 3, 0])).loss.backward()
        assert all(x.grad is None for view in teacher for x in view)
        assert any(x.grad is not None and x.grad.abs().sum() > 0 for view in student for x in view)
        learned = [name for name, p in objective.named_parameters() if p.requires_grad]
        assert all(name.startswith("head.") for name in learned)


def test_the_supervised_loss_is_the_cross_entropy_of_every_view(tiny):
    params, labels, student = tiny(), torch.tensor([0, 1, 2, 3, 0]), outputs(3, 3)
    result = LabelObjective(params, space(0))(outputs(2, 2), student, labels)
    by_view = [F.cross_entropy(space(0).logits(view.embedding, params.student_temperature), labels) for view in student]
    torch.testing.assert_close(result.loss, torch.stack(by_view).mean())


def test_sinkhorn_balances_both_spaces_and_its_memory_is_in_the_checkpoint(tiny):
    spaces = {"category": space(0), "description": space(1)}
    objective = ConceptObjective(tiny(uniform_prior_weight=0.0, sinkhorn_iterations=50), spaces)
    result = objective(outputs(2, 2), outputs(3, 3), torch.zeros(5))
    torch.testing.assert_close(result.teacher.mean((0, 1)), torch.full((4,), 0.25), atol=0.02, rtol=0)
    kept = {key.split(".")[1] for key in objective.state_dict() if key.startswith("teacher_priors")}
    assert kept == {"category", "description"}


def test_teacher_and_student_heads_start_alike(tiny):
    objective = FeatureObjective(tiny("no_language"), 7)
    for a, b in zip(objective.head.parameters(), objective.teacher_head.parameters()):
        assert torch.equal(a, b) and a.requires_grad and not b.requires_grad
