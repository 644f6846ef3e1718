"""Finds LIBERO's meshes and textures, and prepares LIBERO to use them without a question asked.

LIBERO's assets (XML, meshes, textures) are looked for in four places: the folder that the
environment variable ``LIBERO_ASSETS`` names, the installed package, the caches of earlier
downloads, and last the stand-ins that :mod:`srpo_env.libero.placeholders` generates.
:func:`prepare_libero` then sets LIBERO up. It has to run before the first ``import libero``, which
otherwise asks a question on the terminal and writes to the home directory.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srpo_env.libero import placeholders

logger = logging.getLogger(__name__)

HUB_REPOSITORY = "lerobot/libero-assets"
"""Dataset repository of LIBERO's assets. Source: hf-libero 0.1.4, ``utils/download_utils.py``."""

FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)
"""Folders of LIBERO's assets that suites other than libero_object need too."""


@dataclass(frozen=True)
class LiberoAssets:
    """A folder with LIBERO's assets, and where it comes from."""

    path: Path
    kind: Literal["real", "stand-in"]
    source: Literal["LIBERO_ASSETS", "installed package", "download", "generated"]


def resolve_assets() -> LiberoAssets:
    """Finds the asset folder; generates the stand-ins when there is no other.

    Downloads nothing. A ``LIBERO_ASSETS`` that is set decides alone: a mistake in it must not turn
    into results on other assets.

    Raises:
        FileNotFoundError: If ``LIBERO_ASSETS`` is set but is no folder or lacks files that the
            tasks load.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    named = os.environ.get("LIBERO_ASSETS", "")
    if named:
        return _named_assets(Path(named).expanduser().absolute())
    in_package = _libero_package() / "assets"
    if not missing_files(in_package):
        return LiberoAssets(in_package, "real", "installed package")
    for folder in _download_folders():
        if not missing_files(folder):
            return LiberoAssets(folder, "real", "download")
    assets = LiberoAssets(_standin_folder(), "stand-in", "generated")
    _announce_standins(assets.path)
    return assets


def prepare_libero(assets: LiberoAssets | None = None) -> LiberoAssets:
    """Makes LIBERO load ``assets`` (default: those that :func:`resolve_assets` finds) from now on.

    Call it before the first ``import libero``: it points ``LIBERO_CONFIG_PATH`` at a private
    folder, so that the import neither asks nor writes to the home directory. A configuration of the
    user's own is not altered; its dataset folder is carried over. If LIBERO is imported already,
    its configuration is left as it is. It may be called again with other assets; environments built
    before keep theirs.

    Raises:
        ModuleNotFoundError: If LIBERO is not installed.
    """
    if assets is None:
        assets = resolve_assets()
    if "libero.libero" not in sys.modules:
        os.environ["LIBERO_CONFIG_PATH"] = str(_write_libero_config(assets.path))
        _redirect_caches()
    import libero.libero as libero

    # What `get_assets_path` returns; every object class and scene asks it, none the configuration.
    libero._assets_path_cache = str(assets.path)
    return assets


def check_suite(assets: LiberoAssets, suite: str) -> None:
    """Refuses a suite whose scenes and objects are not among ``assets``.

    Raises:
        FileNotFoundError: If ``suite`` needs more than is there.
    """
    if suite == "libero_object":
        return
    if assets.kind == "stand-in":
        raise FileNotFoundError(
            f"Stand-in assets cover libero_object only, and {suite!r} needs LIBERO's own: run "
            "`srpo-env assets download`, or set LIBERO_ASSETS to a folder that has them"
        )
    missing = [name for name in FOLDERS if not (assets.path / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{suite!r} needs assets that {assets.path} lacks: {', '.join(missing)}. Run "
            "`srpo-env assets download`, or set LIBERO_ASSETS to a complete folder"
        )


def download_assets() -> LiberoAssets:
    """Downloads LIBERO's own assets into the Hugging Face cache; `resolve_assets` looks there.

    Raises:
        ModuleNotFoundError: If ``huggingface_hub`` is not installed.
        ConnectionError: If the download fails.
        FileNotFoundError: If what arrived lacks files that the tasks load.
    """
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Downloading LIBERO's assets needs huggingface_hub: run `pip install huggingface_hub`",
            name="huggingface_hub",
        ) from error
    try:
        folder = Path(snapshot_download(HUB_REPOSITORY, repo_type="dataset"))
    except Exception as error:  # the library, its HTTP client, the socket: each raises its own kind
        raise ConnectionError(
            "LIBERO's assets could not be downloaded from "
            f"https://huggingface.co/datasets/{HUB_REPOSITORY} ({type(error).__name__}: {error}). "
            "Without network, copy the folder from another machine and set LIBERO_ASSETS to it"
        ) from error
    _require_complete(
        folder, f"The download of {HUB_REPOSITORY}", "delete the folder and download again"
    )
    return LiberoAssets(folder, "real", "download")


def missing_files(folder: Path) -> list[str]:
    """Files that the ten tasks of libero_object load and ``folder`` lacks, relative to it; sorted.

    The meshes and textures that the XML files name count too, and so does an XML file that cannot
    be read.
    """
    missing = {name for name in placeholders.TEXTURE_FILES if not (folder / name).is_file()}
    for name in placeholders.XML_FILES:
        xml = folder / name
        try:
            elements = [element for element in ET.parse(xml).iter() if element.get("file")]
        except (OSError, ET.ParseError):
            missing.add(name)
            continue
        for element in elements:
            file = os.path.normpath(xml.parent / str(element.get("file")))
            if element.get("name") not in placeholders.REPLACED_TEXTURES and not os.path.isfile(
                file
            ):
                missing.add(os.path.relpath(file, folder))
    return sorted(missing)


@functools.cache
def cache_folder() -> Path:
    """This user's folder for generated files: ``srpo-env`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Where that cannot be written, a folder in the system's temporary directory.
    """
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    in_temporary = Path(tempfile.gettempdir()) / f"srpo-env-{_user_id()}"
    for folder in (home_cache / "srpo-env", in_temporary):
        if folder.is_absolute() and _is_ours(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="srpo-env-"))


# --- Where the assets are -----------------------------------------------------------------------


def _named_assets(folder: Path) -> LiberoAssets:
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"LIBERO_ASSETS must name a folder with LIBERO's assets, but {str(folder)!r} {state}: "
            "correct it, or unset it to use generated stand-ins"
        )
    _require_complete(
        folder,
        "LIBERO_ASSETS",
        "run `srpo-env assets download`, or unset LIBERO_ASSETS to use generated stand-ins",
    )
    kind: Literal["real", "stand-in"] = "stand-in" if placeholders.is_generated(folder) else "real"
    if kind == "stand-in":
        _announce_standins(folder)
    return LiberoAssets(folder, kind, "LIBERO_ASSETS")


def _require_complete(folder: Path, subject: str, way_out: str) -> None:
    missing = missing_files(folder)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        shown = ", ".join(missing[:3]) + more
        raise FileNotFoundError(
            f"{subject} must hold the files that LIBERO's tasks load, but {str(folder)!r} lacks "
            f"{shown}: {way_out}"
        )


def _libero_package() -> Path:
    # Found, not imported: importing it is what needs the preparation.
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "LIBERO is not installed: run `pip install 'srpo-env[libero]'` and "
            "`pip install --no-deps hf-libero==0.1.4`",
            name="libero",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def _download_folders() -> list[Path]:
    # LIBERO's own downloader keeps its copy outside of the Hugging Face cache.
    folders = [Path(os.path.expanduser("~/.cache/libero/assets"))]
    if importlib.util.find_spec("huggingface_hub") is not None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            cached = snapshot_download(HUB_REPOSITORY, repo_type="dataset", local_files_only=True)
        except LocalEntryNotFoundError:
            return folders
        folders.append(Path(cached))
    return folders


def _standin_folder() -> Path:
    folder = cache_folder() / f"stand-ins-{placeholders.source_digest()}"
    if folder.is_dir() and missing_files(folder):
        # A cleaner of old files was here. Moved away first: to another process, a folder half
        # deleted would look like one to use.
        shutil.rmtree(_moved_away(folder), ignore_errors=True)
    if not folder.is_dir():
        _create_atomically(folder, placeholders.generate)
    return folder


@functools.cache
def _announce_standins(folder: Path) -> None:
    # Workers of a vector environment repeat what their parent has said, so they say it quietly.
    level = logging.INFO if multiprocessing.parent_process() else logging.WARNING
    logger.log(
        level,
        "Using generated stand-ins for LIBERO's assets (%s). Results on them are not LIBERO "
        "results; `srpo-env assets download` fetches the real ones.",
        folder,
    )


# --- LIBERO's configuration ---------------------------------------------------------------------


def _write_libero_config(assets: Path) -> Path:
    package = _libero_package()
    paths = {
        "benchmark_root": str(package),
        "bddl_files": str(package / "bddl_files"),
        "init_states": str(package / "init_files"),
        "datasets": _datasets_of_user() or str(cache_folder() / "datasets"),
        "assets": str(assets),
    }
    content = json.dumps(paths, indent=2)  # JSON is YAML, and is what LIBERO's reader gets to see
    # One folder per content: a process with other assets must not change this one's file.
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    folder = cache_folder() / f"libero-config-{digest}"
    if not (folder / "config.yaml").is_file():
        _create_atomically(folder, lambda new: (new / "config.yaml").write_text(content))
    return folder


def _datasets_of_user() -> str | None:
    import yaml

    folder = Path(os.environ.get("LIBERO_CONFIG_PATH") or os.path.expanduser("~/.libero"))
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # no configuration, or one that LIBERO could not read either
    datasets = config.get("datasets") if isinstance(config, dict) else None
    return datasets if isinstance(datasets, str) else None


def _redirect_caches() -> None:
    # LIBERO imports matplotlib, which creates its folder in the home directory. Where it exists,
    # the user's own settings may be in it, and they stay in force.
    config = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
    if "matplotlib" not in sys.modules and not (config / "matplotlib").is_dir():
        os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    # robosuite has numba keep what it compiles beside its files. Where they cannot be written,
    # numba writes to the home directory, and where that cannot be written, the import fails.
    robosuite = importlib.util.find_spec("robosuite")
    if robosuite and robosuite.origin and not os.access(Path(robosuite.origin).parent, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))


# --- Folders that several processes may want at once --------------------------------------------


def _create_atomically(folder: Path, fill: Callable[[Path], object]) -> None:
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(new)
        os.rename(new, folder)
    except OSError:
        # Several processes may do this at once; the first rename wins, and all content is the same.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _moved_away(folder: Path) -> Path:
    trash = Path(tempfile.mkdtemp(prefix=f".old-{folder.name}-", dir=folder.parent))
    try:
        os.rename(folder, trash / folder.name)
    except FileNotFoundError:
        pass  # another process was faster
    return trash


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` exists or can be made, belongs to this user and can be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != _user_id():
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
