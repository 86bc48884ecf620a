"""`python -m dreambooth_trainer.preflight --config FILE`: checks a job before it trains."""

import sys

from dreambooth_trainer.preflight.check import main

if __name__ == "__main__":
    sys.exit(main())
