"""Operations on Mach-O objects and libraries that LLVM's tools lack.

    macho.py constructors OBJECT    prints the names of the object's constructors, in the order in which they run
    macho.py hide OBJECT NAMES      hides all names that it exports, except those in the file NAMES
    macho.py settle LIBRARY         makes a library that zig has linked depend on nothing but its objects

Where a section of pointers to other libraries has some that stay within the library, zig's linker leaves these out of the table of indirect
symbols. So the entries behind them are in the wrong places, and the last ones are what its memory happened to hold. settle puts them
right, and computes the UUID and the hashes of the signature anew. Apple's loader.h, nlist.h and cs_blobs.h have the formats.
"""

import hashlib
import struct
import sys

MAGIC_64, LC_SEGMENT_64, LC_SYMTAB, LC_DYSYMTAB, LC_UUID, LC_CODE_SIGNATURE = 0xFEEDFACF, 0x19, 2, 0xB, 0x1B, 0x1D
POINTERS, LAZY_POINTERS, STUBS = 6, 7, 8  # types of sections with indirect symbols
LOCAL = 0x80000000  # the indirect symbol of a pointer within the library
CODE_DIRECTORY, SHA256 = 0xFADE0C02, 2
N_STAB, N_PEXT, N_TYPE, N_EXT = 0xE0, 0x10, 0x0E, 0x01  # of n_type: a debugger's; hidden; its kind, 0 if it is elsewhere; of other objects, too


class Object:
    def __init__(self, data):
        magic, commands = struct.unpack_from("<I12xI", data)
        if magic != MAGIC_64:
            raise SystemExit(f"not a Mach-O object of 64 bits: it begins with {magic:#x}")
        self.data, self.symbols, self.relocations = data, [], {}  # symbols: name, place of n_type, n_value; relocations: by section
        self.indirect, self.places = {}, {}  # by type of section: its first indirect symbol, and their number; where commands are
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
                    name, length, place, count, flags, first, stub = struct.unpack_from("<16s24xQ8x5I", data, section)
                    self.relocations[name.rstrip(b"\0").decode()] = [struct.unpack_from("<iI", data, place + 8 * i) for i in range(count)]
                    if flags & 0xFF in (POINTERS, LAZY_POINTERS, STUBS):
                        self.indirect[flags & 0xFF] = first, length // (stub or 8)
            self.places[command] = at
            at += size

    def constructors(self):
        return [self.symbols[what & 0xFFFFFF][0] for _, what in sorted(self.relocations.get("__mod_init_func", []))]

    def shown(self):
        """The names that the object exports, and the places of their n_type."""
        for name, at, value in self.symbols:
            kind = self.data[at]
            if kind & N_EXT and not kind & N_STAB and (kind & N_TYPE or value):  # a common symbol is of no kind, and has a size
                yield name, at

    def settle(self):
        place, all = struct.unpack_from("<2I", self.data, self.places[LC_DYSYMTAB] + 56)
        table = list(struct.unpack_from(f"<{all}I", self.data, place))
        (_, stubs), (first, pointers), (lazy, _) = (self.indirect[kind] for kind in (STUBS, POINTERS, LAZY_POINTERS))
        written = [n for n in range(pointers + 1) if table[first + n : first + n + stubs] == table[:stubs]]  # each stub has a lazy pointer
        if (first, lazy, all) != (stubs, stubs + pointers, 2 * stubs + pointers) or not written:
            raise SystemExit("the linker writes another table of indirect symbols: see whether it still needs to be put right")
        table[first + written[0] :] = [LOCAL] * (pointers - written[0]) + table[:stubs]
        struct.pack_into(f"<{all}I", self.data, place, *table)
        limit, uuid = len(self.data), self.places[LC_UUID] + 8
        if LC_CODE_SIGNATURE in self.places:
            limit = struct.unpack_from("<I", self.data, self.places[LC_CODE_SIGNATURE] + 8)[0]
        self.data[uuid : uuid + 16] = bytes(16)
        self.data[uuid : uuid + 16] = hashlib.sha256(self.data[:limit]).digest()[:16]
        if limit < len(self.data):
            self.sign(limit)

    def sign(self, limit):
        """Computes the hashes of the signature, which is at a place and covers what is before."""
        for i in range(struct.unpack_from(">I", self.data, limit + 8)[0]):
            directory = limit + struct.unpack_from(">I", self.data, limit + 16 + 8 * i)[0]
            magic, hashes, pages, covered, size, kind, page = struct.unpack_from(">I12xI8x2I2BxB", self.data, directory)
            if magic != CODE_DIRECTORY:
                continue
            if (kind, covered) != (SHA256, limit):
                raise SystemExit(f"the signature has hashes of type {kind} of {covered} bytes, not SHA-256 of {limit}")
            for slot in range(pages):
                at = directory + hashes + slot * size
                self.data[at : at + size] = hashlib.sha256(self.data[slot << page : min(slot + 1 << page, limit)]).digest()


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
elif action == "settle":
    Object(data).settle()
    open(path, "wb").write(data)
else:
    raise SystemExit(__doc__)
