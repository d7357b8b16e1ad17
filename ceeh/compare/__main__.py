import sys

from ceeh.compare import main

if __name__ == "__main__":
    sys.exit(main())
