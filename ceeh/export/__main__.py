import sys

from ceeh.export import main

if __name__ == "__main__":
    sys.exit(main())
