import sys
from pathlib import Path

# The fabricated run folders live with the tests of the analysis, which reads them first.
sys.path.insert(0, str(Path(__file__).parent.parent / "test_analysis"))
