"""Prints which OpenGL renderer is used, as JSON: ``python -m srpo_env.libero.gl_probe``.

A separate program, because a broken driver can end the process, and because a process cannot change
its OpenGL library.
"""

from __future__ import annotations

import json

from srpo_env.libero.gl import choose_gl


def probe() -> dict[str, str]:
    """Creates a small off-screen context and reads its properties.

    Returns:
        ``backend`` (the value of ``MUJOCO_GL``), and OpenGL's ``renderer`` and ``version``.

    Raises:
        RuntimeError: If no context can be created.
    """
    backend = choose_gl()
    import mujoco  # after choose_gl(), because it reads MUJOCO_GL on import

    context = mujoco.GLContext(64, 64)
    context.make_current()
    from OpenGL import GL  # after MuJoCo, which chooses PyOpenGL's library

    names = [GL.glGetString(name) for name in (GL.GL_RENDERER, GL.GL_VERSION)]
    if None in names:  # GLFW without a display
        raise RuntimeError(f"MUJOCO_GL={backend} created no OpenGL context")
    context.free()
    renderer, version = (name.decode() for name in names)
    return {"backend": backend, "renderer": renderer, "version": version}


if __name__ == "__main__":
    print(json.dumps(probe()))
