"""The subcommands of ``srpo-env``; :mod:`srpo_env.cli.main` says what such a module has."""
