"""Instance discrimination against numbers worked out by hand."""

import math

import torch

from training.config import ClusterConfig, DirectionsConfig, InstanceConfig, LossesConfig
from training.data.batch import Batch
from training.loop.task import DistillationTask
from training.losses.active import Needs, learnable_temperatures, weights_of
from training.losses.centroids import Centroids
from training.losses.instance import InstanceDiscriminationLoss
from training.model.student import Student

PAIRS = ("image_image", "text_text", "image_text", "text_image")


def test_a_student_equal_to_its_teacher() -> None:
    """Two orthogonal pairs at temperature 0.5: every one of the four terms is log(1 + exp(-2))."""
    eye = torch.eye(2)
    terms = InstanceDiscriminationLoss(temperature=0.5)(eye, eye, eye, eye)
    assert list(terms) == [f"instance_{pair}" for pair in PAIRS]
    for value in terms.values():
        assert math.isclose(value.item(), math.log(1 + math.exp(-2)), rel_tol=1e-6)


def test_each_term_compares_what_its_name_says() -> None:
    """The student's captions are swapped: only terms with the student's text suffer."""
    eye, swapped = torch.eye(2), torch.eye(2).flip(0)
    terms = InstanceDiscriminationLoss(temperature=1.0)(eye, swapped, eye, eye)
    good, bad = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    expected = dict(zip(PAIRS, (good, bad, good, bad)))
    for pair, value in expected.items():
        assert math.isclose(terms[f"instance_{pair}"].item(), value, rel_tol=1e-6)


def test_teacher_embeddings_are_normalized_again() -> None:
    eye = torch.eye(2)
    scaled = (eye * 3).half()
    loss = InstanceDiscriminationLoss(feature=True)
    assert loss(eye, eye, scaled, scaled)["instance_feature"].item() == 0


def test_feature_term_is_the_mean_squared_error_of_both_modalities() -> None:
    """Image off by (1, -1) in one of two rows: 2 / 4; captions equal: 0."""
    eye = torch.eye(2)
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = InstanceDiscriminationLoss(directions=(), feature=True)
    terms = loss(image, eye, eye, eye)
    assert list(terms) == ["instance_feature"] and math.isclose(terms["instance_feature"].item(), 0.5)


def test_directions_without_weight_are_left_out_with_what_they_alone_need() -> None:
    directions = DirectionsConfig(image_image=2, text_text=0, image_text=0, text_image=1)
    config = InstanceConfig(directions=directions, feature_weight=0)
    losses = LossesConfig(instance=config, cluster=ClusterConfig(weight=0))
    assert weights_of(losses) == {"contrastive": 1.0, "instance_image_image": 0.5, "instance_text_image": 0.25}
    needs = {"teacher_image": True, "teacher_text": False, "cluster_id": False, "centroids": False}
    assert Needs.of(losses) == Needs(**needs, teacher_space=True)
    eye = torch.eye(2)
    terms = InstanceDiscriminationLoss.from_config(config)(eye, eye, eye, None)
    assert list(terms) == ["instance_image_image", "instance_text_image"]


def test_feature_term_only_with_a_weight() -> None:
    assert not InstanceDiscriminationLoss.from_config(InstanceConfig(feature_weight=0)).feature
    assert InstanceDiscriminationLoss.from_config(InstanceConfig(feature_weight=2.0)).feature


class _Toy(torch.nn.Module):
    """A model of which images and captions are embedded by one layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = (torch.nn.Linear(4, 4, bias=False) for _ in range(2))
        self.logit_scale = torch.nn.Parameter(torch.tensor([2.0]))

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.visual(image)

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        return self.text(text)


def test_a_learnable_temperature_starts_where_it_is_set_and_is_learnt_beside_all_other_terms() -> None:
    torch.manual_seed(0)
    losses = LossesConfig.model_validate(
        {
            "cluster": {"label_weight": 1, "positives": 2},
            "instance": {"temperature": 0.2, "learnable_temperature": True},
            "relation": {"weight": 1, "gradient_weight": 1, "teacher_temperature": 0.1},
        }
    )
    temperatures = learnable_temperatures(losses)
    assert temperatures == {"instance": 0.2}
    student = Student(_Toy(), embed_dim=4, teacher_dim=None, temperatures=temperatures)
    image, text, teacher_image, teacher_text = (torch.randn(3, 4) for _ in range(4))
    teacher = {"teacher_image": teacher_image, "teacher_text": teacher_text}
    batch = Batch(image_ids=[0, 1, 2], image=image, text=text, cluster_ids=torch.tensor([0, 1, 2]), **teacher)
    centroids = Centroids(torch.randn(5, 4))
    task = DistillationTask(losses, centroids=centroids, normalize=lambda x: x, device=torch.device("cpu"))
    terms = task.losses(student, batch)
    assert list(terms) == list(weights_of(losses))
    features = student(image, text)
    fixed = InstanceDiscriminationLoss(temperature=0.2)(features.image, features.text, teacher_image, teacher_text)
    for name, value in fixed.items():
        torch.testing.assert_close(terms[name], value)
    task.total(terms).backward()
    assert student.log_scales["instance"].grad.item() and student.model.logit_scale.grad.item()


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    rows = [torch.randn(3, 4, dtype=torch.float64) for _ in range(4)]
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    inputs = (*(student.requires_grad_() for student in rows[:2]), scale)
    for elements in (4, 100):
        loss = InstanceDiscriminationLoss(feature=True, elements=elements)
        assert torch.autograd.gradcheck(
            lambda image, text, s, loss=loss: tuple(loss(image, text, *rows[2:], scale=s).values()), inputs
        )
