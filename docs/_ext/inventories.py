"""Where other projects document the names that this site refers to, as inventories for intersphinx.

The inventories are written from the table below when the build begins, so that a build needs no network. A name that is
missing here is a warning, and warnings fail the build: add a line.
"""

from __future__ import annotations

import zlib
from pathlib import Path

#: Project -> address of its documentation, and "name role page#anchor" in lines; ``$`` stands for the name.
PROJECTS = {
    "numpy": (
        "https://numpy.org/doc/stable/",
        """
        numpy.quantile                  function reference/generated/numpy.quantile.html#$
        numpy.random.default_rng        function reference/random/generator.html#$
        numpy.random.Generator          class    reference/random/generator.html#$
        numpy.random.BitGenerator class reference/random/bit_generators/generated/numpy.random.BitGenerator.html#$
        numpy.random.SeedSequence class reference/random/bit_generators/generated/numpy.random.SeedSequence.html#$
        numpy.ndarray                   class    reference/generated/numpy.ndarray.html#$
        """,
    ),
    "scipy": (
        "https://docs.scipy.org/doc/scipy/",
        """
        scipy.sparse.coo_array               class    reference/generated/scipy.sparse.coo_array.html#$
        scipy.stats.rankdata                 function reference/generated/scipy.stats.rankdata.html#$
        scipy.stats.wasserstein_distance     function reference/generated/scipy.stats.wasserstein_distance.html#$
        scipy.optimize.linear_sum_assignment function reference/generated/scipy.optimize.linear_sum_assignment.html#$
        scipy.spatial.KDTree                 class    reference/generated/scipy.spatial.KDTree.html#$
        scipy.special.softmax                function reference/generated/scipy.special.softmax.html#$
        """,
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        """
        torch.Tensor                  class    tensors.html#$
        torch.compile                 function generated/$.html#$
        torch.export.export           function export.html#$
        torch.func                    module   func.html#module-$
        torch.nn.Module               class    generated/torch.nn.Module.html#$
        torch.nn.MultiheadAttention   class    generated/torch.nn.MultiheadAttention.html#$
        torch.nn.TransformerEncoder   class    generated/torch.nn.TransformerEncoder.html#$
        torch.nn.TransformerEncoderLayer class generated/torch.nn.TransformerEncoderLayer.html#$
        torch.nn.functional.scaled_dot_product_attention function \
            generated/torch.nn.functional.scaled_dot_product_attention.html#$
        """,
    ),
    "pot": (
        "https://pythonot.github.io/",
        """
        ot.emd                                   function all.html#$
        ot.emd2                                  function all.html#$
        ot.sinkhorn                              function all.html#$
        ot.wasserstein_1d                        function all.html#$
        ot.sliced_wasserstein_distance           function all.html#$
        ot.sliced                                module   gen_modules/ot.sliced.html#module-$
        """,
    ),
}


def write(folder: Path) -> dict[str, tuple[str, str]]:
    """Write one inventory for each project, and return ``intersphinx_mapping``."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, (address, table) in PROJECTS.items():
        entries = []
        for line in filter(None, map(str.strip, table.splitlines())):
            name, role, page = line.split()
            entries.append(f"{name} py:{role} 1 {page} -")
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n# compressed with zlib\n"
        path = folder / f"{project}.inv"
        path.write_bytes(head.encode() + zlib.compress("\n".join([*entries, ""]).encode()))
        mapping[project] = (address, str(path))
    return mapping
