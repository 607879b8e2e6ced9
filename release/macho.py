"""Operations on Mach-O objects that LLVM's tools lack.

    macho.py constructors OBJECT    prints the names of the object's constructors, in the order in which they run
    macho.py hide OBJECT NAMES      hides all names that it exports, except those in the file NAMES
"""

import struct
import sys

MAGIC_64, LC_SEGMENT_64, LC_SYMTAB = 0xFEEDFACF, 0x19, 2
N_STAB, N_PEXT, N_TYPE, N_EXT = 0xE0, 0x10, 0x0E, 0x01  # of n_type: a debugger's; hidden; its kind, 0 if it is elsewhere; of other objects, too


class Object:
    def __init__(self, data):
        magic, commands = struct.unpack_from("<I12xI", data)
        if magic != MAGIC_64:
            raise SystemExit(f"not a Mach-O object of 64 bits: it begins with {magic:#x}")
        self.data, self.symbols, self.relocations = data, [], {}  # symbols: name, place of n_type, n_value; relocations: by section
        at = 32
        for _ in range(commands):
            command, size = struct.unpack_from("<2I", data, at)
            if command == LC_SYMTAB:
                first, count, strings = struct.unpack_from("<3I", data, at + 8)
                for entry in range(first, first + 16 * count, 16):
                    name, value = struct.unpack_from("<I4xQ", data, entry)
                    self.symbols.append((bytes(data[strings + name : data.index(0, strings + name)]).decode(), entry + 4, value))
            elif command == LC_SEGMENT_64:
                for section in range(at + 72, at + size, 80):
                    name, place, count = struct.unpack_from("<16s40x2I", data, section)
                    self.relocations[name.rstrip(b"\0").decode()] = [struct.unpack_from("<iI", data, place + 8 * i) for i in range(count)]
            at += size

    def constructors(self):
        return [self.symbols[what & 0xFFFFFF][0] for _, what in sorted(self.relocations.get("__mod_init_func", []))]

    def shown(self):
        """The names that the object exports, and the places of their n_type."""
        for name, at, value in self.symbols:
            kind = self.data[at]
            if kind & N_EXT and not kind & N_STAB and (kind & N_TYPE or value):  # a common symbol is of no kind, and has a size
                yield name, at


action, path, *names = sys.argv[1:]
data = bytearray(open(path, "rb").read())
if action == "constructors":
    print(*Object(data).constructors())
elif action == "hide":
    keep, shown = set(open(*names).read().split()), dict(Object(data).shown())
    if keep - shown.keys():
        raise SystemExit(f"{path} does not define {', '.join(sorted(keep - shown.keys()))}")
    for name in shown.keys() - keep:
        data[shown[name]] |= N_PEXT
    open(path, "wb").write(data)
else:
    raise SystemExit(__doc__)
