"""python -m worker, but one that finalizes a step beside the next one, as with a GPU."""

import worker.main
from harness.gate import work_as_on_a_gpu

work_as_on_a_gpu()
worker.main.main()
