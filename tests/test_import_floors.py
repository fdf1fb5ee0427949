"""Imports only go down: the floors of the house, held by reading the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("npe_tf", "layers", "samplers", "experiments")
NEVER_IMPORTED = ("experiments", "tests", "benchmarks")

# Every module stands on one floor and may import from the floors below.
FLOORS = {
    1: [
        "layers",
        "layers.*",
        "samplers",
        "samplers.*",
        "npe_tf.background",
        "npe_tf.catalogues",
        "npe_tf.catalogues.*",
        "npe_tf.chain_layout",
        "npe_tf.chain_store",
        "npe_tf.checksums",
        "npe_tf.cosmology",
        "npe_tf.diagnostics",
        "npe_tf.energy",
        "npe_tf.field_moments",
        "npe_tf.fourier",
        "npe_tf.friends_of_friends",
        "npe_tf.gadget",
        "npe_tf.grid",
        "npe_tf.mass_function",
        "npe_tf.mass_variance",
        "npe_tf.multiplicity",
        "npe_tf.parameters",
        "npe_tf.plot_style",
        "npe_tf.plots",
        "npe_tf.run_history",
        "npe_tf.statistics",
        "npe_tf.warmup",
        "npe_tf.white_noise",
        "npe_tf.whole_files",
        "npe_tf.workers",
    ],
    2: [
        "npe_tf.bias",
        "npe_tf.bias.*",
        "npe_tf.catalogue",
        "npe_tf.convergence",
        "npe_tf.datasets",
        "npe_tf.field_checks",
        "npe_tf.figures",
        "npe_tf.health",
        "npe_tf.inference_data",
        "npe_tf.painting",
        "npe_tf.power",
        "npe_tf.tabulated_power",
        "npe_tf.redshift_space",
        "npe_tf.survey",
    ],
    3: [
        "npe_tf.gravity",
        "npe_tf.gravity.*",
        "npe_tf.halo_abundance",
        "npe_tf.initial_field",
        "npe_tf.likelihood",
        "npe_tf.negative_binomial",
        "npe_tf.peak_background",
        "npe_tf.verdict",
    ],
    4: [
        "npe_tf.environments",
        "npe_tf.nbody",
        "npe_tf.posterior",
        "npe_tf.pretraining",
        "npe_tf.resimulation",
    ],
    5: [
        "npe_tf.architecture_search",
        "npe_tf.chain_fits",
        "npe_tf.comparison",
        "npe_tf.export",
        "npe_tf.figure_data",
        "npe_tf.gibbs",
        "npe_tf.inference",
        "npe_tf.joint",
        "npe_tf.mode_weights",
        "npe_tf.mocks",
        "npe_tf.predictive",
        "npe_tf.papers_figures",
        "npe_tf.report",
        "npe_tf.report.*",
        "npe_tf.run",
        "npe_tf.sharded",
        "npe_tf.sharded.*",
        "npe_tf.summary",
        "npe_tf.watched",
        "npe_tf.weigh_runs",
        "npe_tf.whitening",
    ],
    6: ["experiments", "experiments.*"],
}

# Imports within a floor, each for a reason: (importer, imported).
SAME_FLOOR = [
    ("npe_tf.architecture_search", "npe_tf.comparison"),
    ("npe_tf.cosmology", "npe_tf.background"),
    ("npe_tf.chain_layout", "npe_tf.checksums"),
    ("npe_tf.chain_store", "npe_tf.chain_layout"),
    ("npe_tf.chain_store", "npe_tf.catalogues*"),
    ("npe_tf.chain_store", "npe_tf.checksums"),
    ("npe_tf.fourier", "npe_tf.grid"),
    ("npe_tf.gadget", "npe_tf.catalogues*"),
    ("npe_tf.white_noise", "npe_tf.catalogues*"),
    ("npe_tf.plots", "npe_tf.plot_style"),
    ("npe_tf.papers_figures", "npe_tf.figure_data"),
    ("npe_tf.power", "npe_tf.tabulated_power"),
    ("npe_tf.report.contents", "npe_tf.summary"),
    ("npe_tf.report*", "npe_tf.report*"),
    ("npe_tf.statistics", "npe_tf.grid"),
    ("npe_tf.datasets", "npe_tf.catalogue"),
    ("npe_tf.figure_data", "npe_tf.run"),
    ("npe_tf.gibbs", "npe_tf.watched"),
    ("npe_tf.halo_abundance", "npe_tf.peak_background"),
    ("npe_tf.inference", "npe_tf.gibbs"),
    ("npe_tf.inference", "npe_tf.joint"),
    ("npe_tf.inference", "npe_tf.watched"),
    ("npe_tf.joint", "npe_tf.chain_fits"),
    ("npe_tf.joint", "npe_tf.watched"),
    ("npe_tf.joint", "npe_tf.whitening"),
    ("npe_tf.mode_weights", "npe_tf.whitening"),
    ("npe_tf.negative_binomial", "npe_tf.likelihood"),
    ("npe_tf.mocks", "npe_tf.predictive"),
    ("npe_tf.sharded*", "npe_tf.sharded*"),
    ("npe_tf.summary", "npe_tf.run"),
    ("npe_tf.summary", "npe_tf.weigh_runs"),
    ("npe_tf.weigh_runs", "npe_tf.joint"),
    ("npe_tf.weigh_runs", "npe_tf.mode_weights"),
    ("npe_tf.weigh_runs", "npe_tf.run"),
    ("npe_tf.weigh_runs", "npe_tf.whitening"),
    ("npe_tf.bias*", "npe_tf.bias*"),
    ("npe_tf.catalogues*", "npe_tf.catalogues*"),
    ("npe_tf.gravity*", "npe_tf.gravity*"),
    ("layers*", "layers*"),
    ("samplers*", "samplers*"),
    ("experiments*", "experiments*"),
]

# Packages that only these modules may import from outside.
ONLY_FROM = {
    "layers": [
        "npe_tf.bias.architecture",
        "npe_tf.bias.mass_resolved",
        "npe_tf.bias.model",
        "npe_tf.bias.neural",
        "npe_tf.bias.standardised",
        "npe_tf.mass_function",
        "npe_tf.sharded.posterior",
    ],
    "samplers": ["npe_tf.gibbs", "npe_tf.joint", "npe_tf.mode_weights"],
}

# The front door re-exports everything, so nothing in the house may come in through it.
FRONT_DOOR = "npe_tf"

# Reading a catalogue must not cost the start of TensorFlow.
NUMPY_ONLY = [
    "npe_tf.catalogue",
    "npe_tf.catalogues",
    "npe_tf.catalogues.astropy_tables",
    "npe_tf.catalogues.formats",
    "npe_tf.catalogues.hdf5",
    "npe_tf.catalogues.header",
    "npe_tf.catalogues.heaps",
    "npe_tf.catalogues.npz",
    "npe_tf.catalogues.pinocchio",
    "npe_tf.catalogues.rockstar",
    "npe_tf.catalogues.selection",
    "npe_tf.catalogues.table",
    "npe_tf.catalogues.text",
    "npe_tf.catalogues.text_lines",
    "npe_tf.catalogues.units",
    "npe_tf.energy",
    "npe_tf.datasets",
    "npe_tf.friends_of_friends",
    "npe_tf.gadget",
    "npe_tf.inference_data",
    "npe_tf.report",
    "npe_tf.report.citation",
    "npe_tf.report.legends",
    "npe_tf.report.markup",
    "npe_tf.report.page",
    "npe_tf.report.provenance",
    "npe_tf.report.style",
    "npe_tf.run_history",
    "npe_tf.statistics",
    "npe_tf.survey",
    "npe_tf.white_noise",
]
HEAVY = ("tensorflow", "tensorflow_probability", "keras", "tf_keras")


def modules_of(root):
    """Name -> file of every module in the packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


def imports_of(name, path, modules):
    """Full names of the modules that a module imports, wherever in it, with line numbers."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                # `from npe_tf import grid` imports a module, `from npe_tf.grid import Grid` a name
                yield (inner if inner in modules else base), node.lineno


def floor_of(name):
    floors = [f for f, patterns in FLOORS.items() if any(matches(name, p) for p in patterns)]
    return floors[0] if floors else None


def matches(name, pattern):
    """`a*` stands for `a` and what is in it, `a.*` for what is in it."""
    if pattern.endswith(".*"):
        return name.startswith(pattern[:-1])
    if pattern.endswith("*"):
        return name == pattern[:-1] or name.startswith(pattern[:-1] + ".")
    return name == pattern


def violations(root):
    """Everything in a source tree that breaks the order of the floors."""
    modules = modules_of(root)
    problems = []
    for name, path in modules.items():
        if name != FRONT_DOOR and floor_of(name) is None:
            problems.append(f"{name} stands on no floor; give it one in FLOORS")
        for imported, line in imports_of(name, path, modules):
            where = f"{name}:{line} imports {imported}"
            top, own = imported.partition(".")[0], name.partition(".")[0]
            if name in NUMPY_ONLY and top in HEAVY:
                problems.append(f"{where}, but is NumPy only")
            if top in NEVER_IMPORTED and top != own:
                problems.append(f"{where}, which nothing may import")
                continue
            if top not in PACKAGES or name == FRONT_DOOR:
                continue
            if own in ("layers", "samplers") and top != own:
                problems.append(f"{where}, but {own} stands alone")
            elif imported == FRONT_DOOR and own != "experiments":
                problems.append(f"{where}, the front door, from inside")
            elif top in ONLY_FROM and top != own and own == "npe_tf":
                if name not in ONLY_FROM[top]:
                    problems.append(f"{where}, which only {ONLY_FROM[top]} may")
            elif imported != FRONT_DOOR:
                below = floor_of(imported)
                if below is None:
                    problems.append(f"{where}, which is not there")
                elif floor_of(name) is not None and not below < floor_of(name):
                    allowed = any(
                        matches(name, importer) and matches(imported, target)
                        for importer, target in SAME_FLOOR
                    )
                    if below > floor_of(name) or not allowed:
                        problems.append(
                            f"{where}: floor {floor_of(name)} cannot import from floor {below}"
                        )
    return problems


def test_imports_only_go_down():
    assert violations(ROOT) == []


def test_the_packages_are_found():
    modules = modules_of(ROOT)
    assert {"npe_tf.catalogue", "npe_tf.datasets"} <= set(modules)


def test_every_module_of_a_floor_is_on_one_floor_only():
    for name in modules_of(ROOT):
        floors = [f for f, patterns in FLOORS.items() if any(matches(name, p) for p in patterns)]
        assert len(floors) == (0 if name == FRONT_DOOR else 1), name


def write_tree(root, tree):
    for name, source in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


SOUND = {
    "npe_tf/__init__.py": "import layers, samplers\nfrom npe_tf.inference import run\n",
    "npe_tf/grid.py": "import numpy\n",
    "npe_tf/fourier.py": "from npe_tf.grid import Grid\n",
    "npe_tf/mass_function.py": "from layers.multipole import y\n",
    "npe_tf/catalogue.py": "import numpy\n",
    "npe_tf/datasets.py": "from .catalogue import Catalogue\n",
    "npe_tf/bias/__init__.py": "",
    "npe_tf/bias/neural.py": "from layers import MixtureDensity\nfrom npe_tf import grid\n",
    "npe_tf/gibbs.py": "from samplers import BlockGibbs\nfrom npe_tf.bias.neural import x\n",
    "npe_tf/inference.py": "from npe_tf.gibbs import z\n",
    "layers/__init__.py": "from layers.multipole import y\n",
    "layers/multipole.py": "import numpy\n",
    "samplers/__init__.py": "",
    "experiments/__init__.py": "",
    "experiments/infer.py": "import npe_tf\nfrom experiments import flags\n",
    "experiments/flags.py": "from samplers import BlockGibbs\n",
}


def test_a_sound_tree_passes(tmp_path):
    write_tree(tmp_path, SOUND)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("npe_tf/grid.py", "from npe_tf.catalogue import Catalogue", "cannot import from floor 2"),
        ("npe_tf/grid.py", "from npe_tf import fourier", "floor 1 cannot import from floor 1"),
        ("npe_tf/grid.py", "from . import inference", "cannot import from floor 5"),
        ("npe_tf/grid.py", "import npe_tf.inference as deep", "cannot import from floor 5"),
        ("npe_tf/grid.py", "def f():\n    from .inference import run", "cannot import from floor"),
        ("npe_tf/bias/neural.py", "from ..inference import run", "cannot import from floor 5"),
        ("npe_tf/bias/neural.py", "from npe_tf.catalogue import Catalogue", "cannot import"),
        ("npe_tf/bias/neural.py", "from npe_tf.nowhere import x", "which is not there"),
        ("npe_tf/catalogue.py", "from layers import MixtureDensity", "which only"),
        ("npe_tf/mass_function.py", "from samplers import BlockGibbs", "which only"),
        ("layers/multipole.py", "from npe_tf.mass_function import z", "stands alone"),
        ("npe_tf/catalogue.py", "import tensorflow as tf", "NumPy only"),
        ("npe_tf/grid.py", "import samplers.block_gibbs", "which only"),
        ("npe_tf/grid.py", "import npe_tf", "the front door"),
        ("npe_tf/grid.py", "from npe_tf import Catalogue", "the front door"),
        ("npe_tf/grid.py", "from tests.reference import x", "which nothing may import"),
        ("npe_tf/__init__.py", "import experiments", "which nothing may import"),
        ("layers/multipole.py", "from npe_tf.grid import Grid", "stands alone"),
        ("samplers/results.py", "import layers", "stands alone"),
        ("npe_tf/astrology.py", "", "stands on no floor"),
        ("npe_tf/gravity/deep/new.py", "import npe_tf.posterior", "cannot import from floor 4"),
    ],
)
def test_a_broken_tree_is_flagged(tmp_path, name, source, complaint):
    write_tree(tmp_path, {**SOUND, "npe_tf/posterior.py": "", name: source + "\n"})
    problems = violations(tmp_path)
    assert len(problems) == 1, problems
    assert problems[0].startswith(
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    )
    assert complaint in problems[0]
