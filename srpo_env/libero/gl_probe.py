"""Asks OpenGL who really renders; run as ``python -m srpo_env.libero.gl_probe``, prints JSON.

A program of its own, as a broken driver may end the process that asks, and as a process cannot take
back its choice of an OpenGL library.
"""

from __future__ import annotations

import json

from srpo_env.libero.gl import choose_gl


def probe() -> dict[str, str]:
    """Makes a small off-screen context and asks its name.

    Returns:
        ``backend`` (the value of ``MUJOCO_GL``), ``renderer`` and ``version``, as OpenGL has them.

    Raises:
        RuntimeError: If the library makes no context.
    """
    backend = choose_gl()
    import mujoco  # after the choice, which it reads on import

    context = mujoco.GLContext(64, 64)
    context.make_current()
    from OpenGL import GL  # after MuJoCo has told PyOpenGL which library to load

    names = [GL.glGetString(name) for name in (GL.GL_RENDERER, GL.GL_VERSION)]
    if None in names:  # GLFW's way to say that there is no display
        raise RuntimeError(f"MUJOCO_GL={backend} made no OpenGL context")
    context.free()
    renderer, version = (name.decode() for name in names)
    return {"backend": backend, "renderer": renderer, "version": version}


if __name__ == "__main__":
    print(json.dumps(probe()))
