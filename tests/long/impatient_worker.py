"""python -m worker, but one that looks again at once whether its engine can be loaded now."""

import worker.main

worker.main.RELOAD_SECONDS = 0.2
worker.main.main()
