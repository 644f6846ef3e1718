"""The subcommands of ``srpo-env``; :mod:`srpo_env.cli` says what such a module has."""
