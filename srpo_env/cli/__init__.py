"""The subcommands of ``srpo-env``, one module each; :mod:`srpo_env.cli.main` runs them."""
