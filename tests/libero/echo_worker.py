"""Functions that the worker processes of the tests run."""

import logging
import os
import pickle
import time


def echo(parent, setup):
    """Answers each request with the setup and the request; "sleep" takes half a second."""
    while (received := parent.receive()) is not None:
        number, request = received
        content = pickle.loads(request)
        if content == "sleep":
            time.sleep(0.5)
        if content == "hang":
            time.sleep(600)
        if content == "die":
            os._exit(3)
        if content == "report":
            parent.report("half of it")
        if content == "warn":
            logging.getLogger("srpo_env.echo").warning("the disk is %s", "full")
        parent.reply(number, pickle.dumps((setup, content)))


def fail(parent, setup):
    raise ImportError("libEGL.so is missing")
