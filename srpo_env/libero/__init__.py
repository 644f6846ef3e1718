"""LIBERO as Gymnasium environments: assets, fast simulation, scripted experts."""
