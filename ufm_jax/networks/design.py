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
        ValueError: naming the argument: K < 2, sizes below 1 or not whole, an ETF with dim < K − 1, or
            orthogonal simplices with another dim than K/2 ≤ dim < K − 1.
    """

    architecture: str  # resnet18, resnet50 or mlp
    num_classes: int
    dim: int | None = None  # d; None: 8k for ResNet18, 32k for ResNet50, the width of an MLP
    etf: bool = False  # classifier frozen as a simplex ETF
    bias: bool = True  # learned, also beside a frozen W
    rotation: int | None = None  # seed of a random rotation of a frozen W; None: none
    width: int = 64
    depth: int = 6  # hidden layers of the MLP
    batch_norm: bool = True  # of the MLP; a ResNet has it always
    rectified: bool = True  # features are those after a ReLU; an MLP's may be affine, of either sign
    norm_momentum: float = 0.9  # share of the running statistics that a step keeps; 0: the last batch's
    stem: str = "cifar"  # 3 x 3 without pooling; or imagenet: 7 x 7, stride 2, max-pooling
    simplices: bool = False  # classifier frozen as K − d orthogonal simplices, for K/2 ≤ d < K − 1

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
        if self.simplices:
            orthogonal_simplices(self.num_classes, self.feature_dim)

    @property
    def natural_dim(self) -> int:
        """Feature dimension where `dim` does not say otherwise."""
        return self.width if self.architecture == "mlp" else 8 * self.width * EXPANSION[self.architecture]

    @property
    def feature_dim(self) -> int:
        """d."""
        return self.natural_dim if self.dim is None else self.dim

    @property
    def frozen(self) -> Float[np.ndarray, "K d"] | None:
        """W where it is not learned."""
        if self.simplices:
            return _rotated(orthogonal_simplices(self.num_classes, self.feature_dim), self.rotation)
        return fixed_etf(self.num_classes, self.feature_dim, self.rotation) if self.etf else None


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
    return _rotated(W, rotation)


def orthogonal_simplices(num_classes: int, dim: int) -> Float[np.ndarray, "K d"]:
    """Return K unit rows in R^d that are K − d simplices, as equal as can be, each in coordinates of its own.

    No K unit vectors have a smaller greatest inner product than its 0 (Rankin 1955, d + 2 ≤ K ≤ 2d). At
    K = 2d: the orthoplex, ± each coordinate. Features that a ReLU keeps non-negative need a bias to reach
    every class: with b = −W h_0 they are seen from h_0.

    Raises:
        ValueError: unless K/2 ≤ d < K − 1.
    """
    K, d = num_classes, dim
    if not K <= 2 * d < 2 * (K - 1):
        raise ValueError(
            f"dim: orthogonal simplices of {K} classes need {-(-K // 2)} <= dim < {K - 1}, got {dim}"
        )
    W, blocks, row, column = np.zeros((K, d)), K - d, 0, 0
    for m in (K // blocks + (number < K % blocks) for number in range(blocks)):
        W[row : row + m, column : column + m - 1] = simplex_etf(m, m - 1)
        row, column = row + m, column + m - 1
    return W


def _rotated(W: Float[np.ndarray, "K d"], rotation: int | None) -> Float[np.ndarray, "K d"]:
    """Return W in a basis that is drawn at random from the seed `rotation`, or as it is."""
    if rotation is None:
        return W
    Q, R = np.linalg.qr(np.random.default_rng(rotation).standard_normal((W.shape[1], W.shape[1])))
    return W @ (Q * np.sign(np.diag(R)))  # these signs make Q uniform over the rotations and reflections
