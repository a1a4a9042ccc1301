"""Figures shared by reports and tutorials: a plan as lines between two clouds, and as a matrix. Needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ._checks import Array, Plan, as_nonnegative_plan, as_pair, as_plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCE, TARGET, MASS = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito: told apart by colour-blind readers

#: The heaviest pieces that are drawn; more would be a blot.
MOST_LINES = 3000

#: The most pixels a side that a matrix is drawn with.
MOST_PIXELS = 600


def new_figure(width: float = 6.4, height: float = 4.0, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the house style, without pyplot's global state.

    Parameters
    ----------
    width, height : float
        Size in inches.
    columns : int
        Number of axes, side by side.

    Returns
    -------
    figure : matplotlib.figure.Figure
        With a constrained layout and a transparent background.
    axes : list of matplotlib.axes.Axes
        From left to right.

    Raises
    ------
    ImportError
        Without matplotlib.

    See Also
    --------
    draw_plan, draw_matrix

    Examples
    --------
    >>> from espref.plot import new_figure
    >>> figure, axes = new_figure(columns=2)
    >>> len(axes)
    2
    """
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


@contextmanager
def house_style() -> Iterator[None]:
    """The style of the figures within the block: ``espref.figures`` on matplotlib's defaults, nothing of the user's.

    Some settings count when a figure is drawn, others when it is saved: do both within the block.

    Yields
    ------
    None

    Raises
    ------
    ImportError
        Without matplotlib.

    See Also
    --------
    new_figure

    Examples
    --------
    >>> import io
    >>> from espref.plot import house_style, new_figure
    >>> with house_style():
    ...     figure, axes = new_figure()
    ...     figure.savefig(io.BytesIO())
    """
    matplotlib = _matplotlib()
    with as_file(files("espref").joinpath("figures.mplstyle")) as path:  # also from a zip
        style = matplotlib.rc_params_from_file(path, use_default_template=False)
    with matplotlib.style.context([style], after_reset=True):
        yield


def _matplotlib() -> Any:
    """matplotlib, which would refuse to load with an unknown backend in MPLBACKEND, though no backend is used here."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.style

        return matplotlib
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'espref[verify]'") from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def planar(x: Array, y: Array) -> tuple[Array, Array]:
    """Both clouds in the plane: themselves for d = 2, beside zero for d = 1, else on their first two principal axes.

    Parameters
    ----------
    x, y : (n, d) and (m, d) array
        Source and target.

    Returns
    -------
    tuple of (n, 2) and (m, 2) array
        Coordinates in the plane, by the same projection for both.

    See Also
    --------
    draw_plan

    Examples
    --------
    >>> import numpy as np
    >>> from espref.plot import planar
    >>> planar(np.array([[3.0]]), np.array([[4.0]]))
    (array([[3., 1.]]), array([[4., 0.]]))
    """
    if x.shape[1] == 1:
        return np.column_stack([x, np.ones(len(x))]), np.column_stack([y, np.zeros(len(y))])
    if x.shape[1] == 2:
        return x, y
    both = np.vstack([x, y])
    centre = both.mean(axis=0)
    axes = np.linalg.svd(both - centre, full_matrices=False)[2][:2]
    return (x - centre) @ axes.T, (y - centre) @ axes.T


def draw_plan(ax: Axes, plan: Plan, x: ArrayLike, y: ArrayLike, title: str = "") -> None:
    """A plan as lines between source (circles) and target (squares), the more opaque the more mass they carry.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    plan : (n, m) array or sparse array
        Nonnegative, with some mass.
    x, y : (n, d) and (m, d)
        Source and target.
    title : str
        Title of the axes.

    Raises
    ------
    ValueError
        For malformed clouds, or a plan of another shape, without mass or with negative entries.

    See Also
    --------
    draw_matrix, planar

    Examples
    --------
    >>> from espref.plot import draw_plan, new_figure
    >>> figure, axes = new_figure()
    >>> draw_plan(axes[0], [[0.5, 0.0], [0.0, 0.5]], [[0, 0], [1, 0]], [[0, 1], [1, 1]])
    >>> len(axes[0].lines)
    2
    """
    from matplotlib.collections import LineCollection

    x, y = as_pair(x, y)
    entries = as_nonnegative_plan(plan)
    if entries.shape != (len(x), len(y)):
        raise ValueError(f"plan: expected shape ({len(x)}, {len(y)}), got shape {entries.shape}")
    u, v = planar(x, y)
    heaviest = np.argsort(entries.data)[-MOST_LINES:]
    ends = np.stack([u[entries.row[heaviest]], v[entries.col[heaviest]]], axis=1)
    opacity = np.clip(entries.data[heaviest] / entries.data.max(), 0.04, 1.0)
    ax.add_collection(LineCollection(list(ends), colors=MASS, alpha=opacity, linewidths=0.9))
    ax.plot(u[:, 0], u[:, 1], "o", ms=3.8, color=SOURCE, label="source")
    ax.plot(v[:, 0], v[:, 1], "s", ms=3.8, color=TARGET, label="target")
    ax.set(title=title, xticks=[], yticks=[])
    if x.shape[1] > 1:
        ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_visible(False)
    ax.legend(loc="best", fontsize=8, framealpha=0, labelcolor="#808080")


def draw_matrix(ax: Axes, matrix: Plan, title: str = "") -> None:
    """A plan or attention matrix as an image, rows downwards; brightness is the root of the mass.

    Of a matrix with more rows or columns than the image has pixels, the sums of blocks are shown.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    matrix : (n, m) array or sparse array
        Entries below 0 are drawn like 0.
    title : str
        Title of the axes.

    See Also
    --------
    draw_plan

    Examples
    --------
    >>> from espref.plot import draw_matrix, new_figure
    >>> figure, axes = new_figure()
    >>> draw_matrix(axes[0], [[0.5, 0.0], [0.0, 0.5]])
    >>> axes[0].images[0].get_array().shape
    (2, 2)
    """
    from matplotlib.colors import PowerNorm

    entries = as_plan(matrix)
    shape = [min(size, MOST_PIXELS) for size in entries.shape]
    cells = [
        index.astype(np.int64) * pixels // size
        for index, pixels, size in zip((entries.row, entries.col), shape, entries.shape, strict=True)
    ]
    image = np.bincount(np.ravel_multi_index(cells, shape), entries.data, minlength=shape[0] * shape[1]).reshape(shape)
    ax.imshow(image, cmap="cividis", norm=PowerNorm(0.5, vmin=0), aspect="auto", interpolation="nearest")
    ax.spines[:].set_visible(False)
    ax.set(title=title, xlabel="target", ylabel="source", xticks=[], yticks=[])
