"""The subcommands of ``srpo-env``, one module each; `srpo_env.cli.main` runs them."""
