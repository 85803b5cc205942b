"""All there is to say of a network: its architecture, feature dimension and classifier."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ufm_jax.models.unconstrained.geometry import simplex_etf
from ufm_jax.networks.arguments import whole

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
EXPANSION = {"resnet18": 1, "resnet50": 4}


@dataclass(frozen=True)
class Design:
    """One network. `width` is k in a ResNet's stages k, 2k, 4k, 8k, and an MLP's hidden width.

    Raises:
        ValueError: naming the argument: K < 2, sizes below 1 or not whole, or an ETF with dim < K − 1.
    """

    architecture: str  # resnet18, resnet50 or mlp
    num_classes: int
    dim: int | None = None  # d; None: 8k for ResNet18, 32k for ResNet50, the width of an MLP
    etf: bool = False  # classifier frozen as a simplex ETF
    bias: bool = True  # learned, also beside a frozen W
    rotation: int | None = None  # seed of a random rotation of the ETF; None: none
    width: int = 64
    depth: int = 6  # hidden layers of the MLP
    batch_norm: bool = True  # of the MLP; a ResNet has it always
    rectified: bool = True  # features are those after a ReLU; an MLP's may be affine, of either sign
    norm_momentum: float = 0.9  # share of the running statistics that a step keeps; 0: the last batch's
    stem: str = "cifar"  # 3 x 3 without pooling; or imagenet: 7 x 7, stride 2, max-pooling

    def __post_init__(self) -> None:
        if self.architecture not in (*BLOCKS, "mlp"):
            raise ValueError(f"architecture: need one of {(*BLOCKS, 'mlp')}, got {self.architecture!r}")
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem: need 'cifar' or 'imagenet', got {self.stem!r}")
        sizes = {"num_classes": 2, "width": 1, "depth": 1} | ({} if self.dim is None else {"dim": 1})
        for name, least in sizes.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        if not 0 <= self.norm_momentum < 1:
            raise ValueError(f"norm_momentum: need 0 <= norm_momentum < 1, got {self.norm_momentum}")
        if not self.rectified and self.architecture != "mlp":
            raise ValueError(f"rectified: features of a {self.architecture} are always, got False")
        if self.etf and self.feature_dim < self.num_classes - 1:
            least = self.num_classes - 1
            raise ValueError(f"dim: an ETF of {self.num_classes} classes needs >= {least}, got {self.dim}")

    @property
    def natural_dim(self) -> int:
        """Feature dimension where `dim` does not say otherwise."""
        return self.width if self.architecture == "mlp" else 8 * self.width * EXPANSION[self.architecture]

    @property
    def feature_dim(self) -> int:
        """d."""
        return self.natural_dim if self.dim is None else self.dim


def fixed_etf(num_classes: int, dim: int, rotation: int | None = None) -> Float[np.ndarray, "K d"]:
    """Return a simplex ETF with unit rows in R^d, optionally rotated at random.

    For d ≥ K its rows are √(K/(K−1)) (I − J/K), filled up with zeros, as the paper freezes it: non-negative
    features reach every class from any d ≥ K.

    Raises:
        ValueError: if d < K − 1.
    """
    K = num_classes
    if dim >= K:
        W = np.pad(np.sqrt(K / (K - 1.0)) * (np.eye(K) - 1.0 / K), ((0, 0), (0, dim - K)))
    else:
        W = simplex_etf(K, dim)
    if rotation is None:
        return W
    Q, R = np.linalg.qr(np.random.default_rng(rotation).standard_normal((dim, dim)))
    return W @ (Q * np.sign(np.diag(R)))  # these signs make Q uniform over the rotations and reflections
