"""``ctcx compare``: every usable backend on the bundled inputs."""
