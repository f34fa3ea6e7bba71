/*
 * slots.c - walks the loaded objects' relocations and swaps function addresses.
 *
 * All pointers into other objects are followed inside dl_iterate_phdr() only:
 * it holds the lock that unloading needs. For the same reason no dl*() function
 * may be called there: dlopen() takes its two locks in the other order.
 */
#include "slots.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <gnu/lib-names.h>
#endif

#include "../../common/lg_atomic.h"

#if defined(__x86_64__)
enum {
    REL_JUMP_SLOT = R_X86_64_JUMP_SLOT,
    REL_GLOB_DAT = R_X86_64_GLOB_DAT,
    REL_ABS = R_X86_64_64
};
#define BASE_VERSION "GLIBC_2.2.5"      /* the port's first; later ones may differ */
#define HAVE_RELOCATIONS 1
#elif defined(__aarch64__)
enum {
    REL_JUMP_SLOT = R_AARCH64_JUMP_SLOT,
    REL_GLOB_DAT = R_AARCH64_GLOB_DAT,
    REL_ABS = R_AARCH64_ABS64
};
#define BASE_VERSION "GLIBC_2.17"
#define HAVE_RELOCATIONS 1
#else
enum { REL_JUMP_SLOT = -1, REL_GLOB_DAT = -2, REL_ABS = -3 };
#define BASE_VERSION ""
#define HAVE_RELOCATIONS 0
#endif

_Static_assert(sizeof(uintptr_t) == sizeof(uint64_t), "a slot is one 64-bit word");

#define HASH_SIZE 1024                  /* a power of two, several times the wants */
#define MAX_WANTS 400
#define MAX_TRIES 8                     /* for an object seen half loaded */

struct record {
    uint64_t *word;
    uint64_t old;
    uint32_t want;
};

/* One loaded object. (base, headers, dynamic) tell it from the others. */
struct object {
    uintptr_t base;
    const void *headers;
    const ElfW(Dyn) * dynamic;
    struct record *records;
    size_t count;
    size_t room;
    uint32_t foreign;
    uint32_t refused;
    bool present;                       /* met in this pass */
    bool half_loaded;                   /* another thread was still relocating it */
    uint8_t tries;
};

/* What we know of a want besides what the caller said. */
struct known {
    uintptr_t stub;                     /* PLT entry of the program: leads to its slot */
    bool old_version;                   /* libc has an older one of another meaning */
};

struct mapping {
    uintptr_t lo;
    uintptr_t hi;
    int prot;
};

struct lg_slots {
    const struct lg_slot_want *wants;
    size_t count;
    struct known *known;
    uint16_t hash[HASH_SIZE];           /* 1 + index of a want, 0 = free */
    struct object *objects;
    size_t object_count;
    size_t object_room;
    unsigned long long adds;            /* of the last pass */
    unsigned long long subs;
    bool complete;                      /* the last pass left nothing to do */
};

/* One walk over the loaded objects. */
struct pass {
    struct lg_slots *slots;
    bool changed;                       /* since the last pass: answer of peek() */
    bool recheck;                       /* something was unloaded: trust no address */
    size_t visited;
    int err;
    struct mapping *maps;               /* read when first needed */
    size_t map_count;
    bool maps_read;
    uintptr_t open_page;                /* made writable just now, 0 = none */
    int open_prot;                      /* what it was */
    uint32_t held;                      /* of count_object */
    uint32_t lost;
    size_t only_want;                   /* count this one; SIZE_MAX = all */
};

/* The dynamic section of one object, as far as we need it. */
struct view {
    uintptr_t base;
    uintptr_t lo;                       /* of all its segments */
    uintptr_t hi;
    const struct dl_phdr_info *info;
    const ElfW(Dyn) * dynamic;
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Rela) * plt;
    size_t plt_count;
    const ElfW(Rela) * rela;
    size_t rela_count;
    const ElfW(Half) * versym;
    const ElfW(Verneed) * verneed;
};

static bool is_program_stub(uintptr_t address);
static void learn(struct lg_slots *slots);
static uint32_t hash_name(const char *name);
static int peek(struct dl_phdr_info *info, size_t size, void *arg);
static int scan_object(struct dl_phdr_info *info, size_t size, void *arg);
static int restore_object(struct dl_phdr_info *info, size_t size, void *arg);
static int count_object(struct dl_phdr_info *info, size_t size, void *arg);
static struct object *find_object(struct lg_slots *slots, const struct dl_phdr_info *info);
static struct object *add_object(struct lg_slots *slots, const struct dl_phdr_info *info);
static void forget_absent(struct lg_slots *slots);
static bool is_left_alone(const struct view *view, bool is_program);
static bool look(const struct dl_phdr_info *info, struct view *view);
static void replace_in(struct pass *pass, struct object *object, const struct view *view);
static void replace_one(struct pass *pass, struct object *object, const struct view *view,
                        const ElfW(Rela) * rela, struct record *before, size_t before_count);
static bool is_unbound(const struct lg_slots *slots, size_t want, const struct view *view,
                       const ElfW(Rela) * rela, uint64_t value);
static bool is_code_of(const struct view *view, uint64_t value, size_t size);
static bool is_plt_entry(uint64_t value, size_t index);
static const char *version_of(const struct view *view, size_t symbol);
static size_t find_want(const struct lg_slots *slots, const char *name);
static bool lies_in(const struct view *view, uintptr_t address);
static struct record *new_record(struct pass *pass, struct object *object);
static void put_back_ours(struct pass *pass, struct object *object);
static bool write_word(struct pass *pass, uint64_t *word, uint64_t value);
static void close_page(struct pass *pass);
static int protection(struct pass *pass, uintptr_t address);
static void read_maps(struct pass *pass);
static void end_pass(struct pass *pass);

/* ---- public ------------------------------------------------------------ */

uintptr_t
lg_slots_next(const char *name)
{
    uintptr_t first = (uintptr_t)dlsym(RTLD_DEFAULT, name);
#if defined(__GLIBC__)
    if (first == 0) {                   /* kept for old programs only, as __xstat */
        first = (uintptr_t)dlvsym(RTLD_DEFAULT, name, BASE_VERSION);
    }
#endif
    uintptr_t beyond = (uintptr_t)dlsym(RTLD_NEXT, name);
    return first != beyond && beyond != 0 && is_program_stub(first) ? beyond : first;
}

int
lg_slots_open(struct lg_slots **out, const struct lg_slot_want *wants, size_t count)
{
    if (!HAVE_RELOCATIONS) {
        return -ENOTSUP;
    }
    if (count > MAX_WANTS) {
        return -EINVAL;
    }
    struct lg_slots *slots = calloc(1, sizeof(*slots));
    struct known *known = calloc(count + 1, sizeof(*known));
    if (slots == NULL || known == NULL) {
        free(slots);
        free(known);
        return -ENOMEM;
    }
    slots->wants = wants;
    slots->count = count;
    slots->known = known;
    learn(slots);
    *out = slots;
    return 0;
}

int
lg_slots_scan(struct lg_slots *slots)
{
    struct pass now = {.slots = slots};
    dl_iterate_phdr(peek, &now);
    if (!now.changed) {
        return 0;
    }
    struct pass pass = {.slots = slots};
    slots->complete = true;
    for (size_t i = 0; i < slots->object_count; i++) {
        slots->objects[i].present = false;
    }
    dl_iterate_phdr(scan_object, &pass);
    end_pass(&pass);
    if (pass.err == 0) {
        forget_absent(slots);
    }
    else {
        slots->complete = false;
    }
    return pass.err;
}

void
lg_slots_close(struct lg_slots *slots)
{
    if (slots == NULL) {
        return;
    }
    struct pass pass = {.slots = slots};
    dl_iterate_phdr(restore_object, &pass);
    end_pass(&pass);
    for (size_t i = 0; i < slots->object_count; i++) {
        free(slots->objects[i].records);
    }
    free(slots->objects);
    free(slots->known);
    free(slots);
}

void
lg_slots_count(struct lg_slots *slots, struct lg_slots_count *out)
{
    struct pass pass = {.slots = slots, .only_want = SIZE_MAX};
    dl_iterate_phdr(count_object, &pass);
    *out = (struct lg_slots_count){.held = pass.held, .foreign = pass.lost};
    for (size_t i = 0; i < slots->object_count; i++) {
        out->objects += 1;
        out->foreign += slots->objects[i].foreign;
        out->refused += slots->objects[i].refused;
    }
}

uint32_t
lg_slots_held(struct lg_slots *slots, size_t i)
{
    struct pass pass = {.slots = slots, .only_want = i};
    dl_iterate_phdr(count_object, &pass);
    return pass.held;
}

/* ---- what the wants are ------------------------------------------------- */

/* A non-PIE program that takes the address of a libc function exports its own
 * PLT entry under that name, so that the address is the same everywhere. It
 * jumps through the program's slot: as the real function it would be a loop. */
static bool
is_program_stub(uintptr_t address)
{
    Dl_info info;
#if defined(__GLIBC__)
    const ElfW(Sym) *symbol = NULL;
    if (dladdr1((void *)address, &info, (void **)&symbol, RTLD_DL_SYMENT) == 0) {
        return false;
    }
    return symbol != NULL && symbol->st_shndx == SHN_UNDEF;
#else
    /* The program alone can have one, and seldom has functions of libc's names. */
    Dl_info program;
    return dladdr((void *)address, &info) != 0 &&
           dladdr((void *)getauxval(AT_PHDR), &program) != 0 && info.dli_fbase == program.dli_fbase;
#endif
}

static void
learn(struct lg_slots *slots)
{
#if defined(__GLIBC__)
    void *libc = dlopen(LIBC_SO, RTLD_LAZY | RTLD_NOLOAD);
#endif
    for (size_t i = 0; i < slots->count; i++) {
        const struct lg_slot_want *want = &slots->wants[i];
        if (want->next == 0) {
            continue;
        }
        uint32_t h = hash_name(want->name);
        while (slots->hash[h % HASH_SIZE] != 0) {
            h++;
        }
        slots->hash[h % HASH_SIZE] = (uint16_t)(i + 1);
        uintptr_t first = (uintptr_t)dlsym(RTLD_DEFAULT, want->name);
        slots->known[i].stub = first != want->next ? first : 0;
#if defined(__GLIBC__)
        void *old = libc != NULL ? dlvsym(libc, want->name, BASE_VERSION) : NULL;
        slots->known[i].old_version = old != NULL && old != dlsym(libc, want->name);
#endif
    }
#if defined(__GLIBC__)
    if (libc != NULL) {
        dlclose(libc);
    }
#endif
}

/* FNV-1a. */
static uint32_t
hash_name(const char *name)
{
    uint32_t h = 2166136261u;
    for (; *name != '\0'; name++) {
        h = (h ^ (uint8_t)*name) * 16777619u;
    }
    return h;
}

static size_t
find_want(const struct lg_slots *slots, const char *name)
{
    for (uint32_t h = hash_name(name);; h++) {
        uint16_t entry = slots->hash[h % HASH_SIZE];
        if (entry == 0) {
            return SIZE_MAX;
        }
        if (strcmp(slots->wants[entry - 1].name, name) == 0) {
            return entry - 1u;
        }
    }
}

/* ---- one object at a time, inside dl_iterate_phdr() ---------------------- */

/* The first object only: has anything changed since the last pass? */
static int
peek(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct pass *pass = arg;
    const struct lg_slots *slots = pass->slots;
    bool counted = size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof(info->dlpi_subs);
    pass->changed = !counted || !slots->complete || info->dlpi_adds != slots->adds ||
                    info->dlpi_subs != slots->subs;
    return 1;
}

static int
scan_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct pass *pass = arg;
    struct lg_slots *slots = pass->slots;
    if (pass->visited == 0 && size > offsetof(struct dl_phdr_info, dlpi_subs)) {
        /* After an unload an address that we know may belong to another object. */
        pass->recheck = info->dlpi_subs != slots->subs;
        slots->adds = info->dlpi_adds;
        slots->subs = info->dlpi_subs;
    }
    bool is_program = pass->visited++ == 0;
    struct object *object = find_object(slots, info);
    if (object != NULL && !pass->recheck && !object->half_loaded) {
        object->present = true;
        put_back_ours(pass, object);
        return 0;
    }
    if (object == NULL) {
        object = add_object(slots, info);
        if (object == NULL) {
            pass->err = -ENOMEM;
            return 1;
        }
    }
    object->present = true;
    struct view view;
    if (look(info, &view) && !is_left_alone(&view, is_program)) {
        replace_in(pass, object, &view);
    }
    if (object->half_loaded) {
        slots->complete = false;
    }
    return pass->err != 0;
}

static int
restore_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct pass *pass = arg;
    struct object *object = find_object(pass->slots, info);
    (void)size;
    for (size_t i = 0; object != NULL && i < object->count; i++) {
        const struct record *r = &object->records[i];
        if (lg_load_relaxed(r->word) == pass->slots->wants[r->want].ours) {
            write_word(pass, r->word, r->old);
        }
    }
    close_page(pass);
    return 0;
}

static int
count_object(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct pass *pass = arg;
    struct object *object = find_object(pass->slots, info);
    (void)size;
    for (size_t i = 0; object != NULL && i < object->count; i++) {
        const struct record *r = &object->records[i];
        if (pass->only_want != SIZE_MAX && pass->only_want != r->want) {
            continue;
        }
        if (lg_load_relaxed(r->word) == pass->slots->wants[r->want].ours) {
            pass->held += 1;
        }
        else {
            pass->lost += 1;
        }
    }
    return 0;
}

static const ElfW(Dyn) * dynamic_of(const struct dl_phdr_info *info)
{
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_DYNAMIC) {
            return (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        }
    }
    return NULL;
}

static struct object *
find_object(struct lg_slots *slots, const struct dl_phdr_info *info)
{
    for (size_t i = 0; i < slots->object_count; i++) {
        struct object *o = &slots->objects[i];
        if (o->base == info->dlpi_addr && o->headers == info->dlpi_phdr &&
            o->dynamic == dynamic_of(info)) {
            return o;
        }
    }
    return NULL;
}

static struct object *
add_object(struct lg_slots *slots, const struct dl_phdr_info *info)
{
    if (slots->object_count == slots->object_room) {
        size_t room = slots->object_room == 0 ? 64 : slots->object_room * 2;
        struct object *more = realloc(slots->objects, room * sizeof(*more));
        if (more == NULL) {
            return NULL;
        }
        slots->objects = more;
        slots->object_room = room;
    }
    struct object *object = &slots->objects[slots->object_count++];
    *object = (struct object){
        .base = info->dlpi_addr,
        .headers = info->dlpi_phdr,
        .dynamic = dynamic_of(info),
    };
    return object;
}

static void
forget_absent(struct lg_slots *slots)
{
    size_t kept = 0;
    for (size_t i = 0; i < slots->object_count; i++) {
        if (slots->objects[i].present) {
            slots->objects[kept++] = slots->objects[i];
        }
        else {
            free(slots->objects[i].records);
        }
    }
    slots->object_count = kept;
}

static bool
is_left_alone(const struct view *view, bool is_program)
{
    static const char *const prefixes[] = {
        "libc.so",   "libc-",         "libc.musl",     "ld-linux",   "ld-musl",
        "ld64.so",   "ld-2.",         "libdl.so",      "libdl-2.",   "librt.so",
        "librt-2.",  "libpthread.so", "libpthread-2.", "libasan.",   "libtsan.",
        "libubsan.", "liblsan.",      "libclang_rt",   "linux-vdso",
    };
    if (is_program) {
        return false;
    }
    uintptr_t own = (uintptr_t)&lg_slots_open;
    if (own >= view->lo && own < view->hi) {
        return true;
    }
    const char *name = strrchr(view->info->dlpi_name, '/');
    name = name != NULL ? name + 1 : view->info->dlpi_name;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* glibc relocates most pointers of the dynamic section in place, musl and the
 * vdso's none: a value outside the object is an offset. */
static const void *
dynamic_pointer(const struct view *view, ElfW(Addr) value)
{
    return (const void *)(value >= view->lo && value < view->hi ? value : view->base + value);
}

/* False: nothing to relocate. */
static bool
look(const struct dl_phdr_info *info, struct view *view)
{
    *view = (struct view){.base = info->dlpi_addr, .lo = UINTPTR_MAX, .info = info};
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type == PT_LOAD) {
            uintptr_t lo = info->dlpi_addr + ph->p_vaddr;
            view->lo = lo < view->lo ? lo : view->lo;
            view->hi = lo + ph->p_memsz > view->hi ? lo + ph->p_memsz : view->hi;
        }
    }
    view->dynamic = dynamic_of(info);
    for (const ElfW(Dyn) *d = view->dynamic; d != NULL && d->d_tag != DT_NULL; d++) {
        switch (d->d_tag) {
        case DT_SYMTAB:
            view->symbols = dynamic_pointer(view, d->d_un.d_ptr);
            break;
        case DT_STRTAB:
            view->strings = dynamic_pointer(view, d->d_un.d_ptr);
            break;
        case DT_JMPREL:
            view->plt = dynamic_pointer(view, d->d_un.d_ptr);
            break;
        case DT_PLTRELSZ:
            view->plt_count = d->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_PLTREL:
            if (d->d_un.d_val != DT_RELA) {
                return false;           /* no 64-bit ABI has it */
            }
            break;
        case DT_RELA:
            view->rela = dynamic_pointer(view, d->d_un.d_ptr);
            break;
        case DT_RELASZ:
            view->rela_count = d->d_un.d_val / sizeof(ElfW(Rela));
            break;
        case DT_VERSYM:
            view->versym = dynamic_pointer(view, d->d_un.d_ptr);
            break;
        case DT_VERNEED:
            view->verneed = dynamic_pointer(view, d->d_un.d_ptr);
            break;
        default:
            break;
        }
    }
    return view->symbols != NULL && view->strings != NULL &&
           (view->plt != NULL || view->rela != NULL);
}

static void
replace_in(struct pass *pass, struct object *object, const struct view *view)
{
    /* On a recheck its old records say what stood in slots that still hold ours. */
    struct record *before = object->records;
    size_t before_count = object->count;
    object->records = NULL;
    object->count = object->room = 0;
    object->foreign = object->refused = 0;
    object->half_loaded = false;
    for (size_t i = 0; view->plt != NULL && i < view->plt_count; i++) {
        replace_one(pass, object, view, &view->plt[i], before, before_count);
    }
    for (size_t i = 0; view->rela != NULL && i < view->rela_count; i++) {
        replace_one(pass, object, view, &view->rela[i], before, before_count);
    }
    close_page(pass);
    object->tries += object->half_loaded;
    free(before);
}

/* dlopen() lists an object before it relocates it: a value below the object is
 * what the file said, and the slot is looked at again in the next scan. */
static void
replace_one(struct pass *pass, struct object *object, const struct view *view,
            const ElfW(Rela) * rela, struct record *before, size_t before_count)
{
    const struct lg_slots *slots = pass->slots;
    int type = (int)ELF64_R_TYPE(rela->r_info);
    if (type != REL_JUMP_SLOT && type != REL_GLOB_DAT && type != REL_ABS) {
        return;
    }
    const ElfW(Sym) *symbol = &view->symbols[ELF64_R_SYM(rela->r_info)];
    if (symbol->st_shndx != SHN_UNDEF || (type == REL_ABS && rela->r_addend != 0)) {
        return;
    }
    size_t i = find_want(slots, view->strings + symbol->st_name);
    uintptr_t address = view->base + rela->r_offset;
    if (i == SIZE_MAX || address % sizeof(uint64_t) != 0) {
        return;
    }
    const struct lg_slot_want *want = &slots->wants[i];
    bool unwanted = (want->only_in != 0 && !lies_in(view, want->only_in)) ||
                    (want->not_in != 0 && lies_in(view, want->not_in));
    if (unwanted) {
        return;
    }
    uint64_t *word = (uint64_t *)address;
    uint64_t value = lg_load_relaxed(word);
    uint64_t old = value;
    if (value == want->ours) {
        size_t k = 0;
        while (k < before_count && before[k].word != word) {
            k++;
        }
        if (k == before_count) {        /* the same slot listed twice */
            return;
        }
        old = before[k].old;
    }
    else if (value != want->next && !is_unbound(slots, i, view, rela, value)) {
        if (value < view->base && object->tries < MAX_TRIES) {
            object->half_loaded = true;
        }
        else {
            object->foreign += value != 0 && value != slots->known[i].stub;
        }
        return;
    }
    struct record *record = new_record(pass, object);
    if (record == NULL) {
        return;
    }
    *record = (struct record){.word = word, .old = old, .want = (uint32_t)i};
    if (value != want->ours && !write_word(pass, word, want->ours)) {
        object->count -= 1;
        object->refused += 1;
    }
}

static bool
lies_in(const struct view *view, uintptr_t address)
{
    return address >= view->lo && address < view->hi;
}

/* A lazily bound slot leads into its own object's PLT until its first call.
 * Bound to an older version of the symbol it would have got another function. */
static bool
is_unbound(const struct lg_slots *slots, size_t want, const struct view *view,
           const ElfW(Rela) * rela, uint64_t value)
{
    if ((int)ELF64_R_TYPE(rela->r_info) != REL_JUMP_SLOT) {
        return false;
    }
    if (slots->known[want].old_version) {
        const char *version = version_of(view, ELF64_R_SYM(rela->r_info));
        if (version == NULL || strcmp(version, BASE_VERSION) == 0) {
            return false;
        }
    }
    return is_code_of(view, value, 16) && is_plt_entry(value, (size_t)(rela - view->plt));
}

/* `size` readable bytes of the object's own code? */
static bool
is_code_of(const struct view *view, uint64_t value, size_t size)
{
    for (size_t i = 0; i < view->info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &view->info->dlpi_phdr[i];
        uintptr_t lo = view->base + ph->p_vaddr;
        if (ph->p_type == PT_LOAD && (ph->p_flags & (PF_X | PF_R)) == (PF_X | PF_R) &&
            value >= lo && value + size <= lo + ph->p_memsz) {
            return true;
        }
    }
    return false;
}

/* What binutils and lld write there, read as code: another tool's function may
 * live in the very object whose slot it has taken. */
static bool
is_plt_entry(uint64_t value, size_t index)
{
    const uint8_t *code = (const uint8_t *)(uintptr_t)value;
#if defined(__x86_64__)
    static const uint8_t endbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};
    uint32_t pushed;
    if (memcmp(code, endbr64, sizeof(endbr64)) == 0) {
        code += sizeof(endbr64);
    }
    memcpy(&pushed, code + 1, sizeof(pushed));
    return code[0] == 0x68 && pushed == index;      /* push $index; jmp plt0 */
#else
    static const uint32_t bti_c = 0xd503245f;
    static const uint32_t stp_x16_x30 = 0xa9bf7bf0; /* plt0, the same for all slots */
    uint32_t instruction;
    memcpy(&instruction, code, sizeof(instruction));
    if (instruction == bti_c) {
        memcpy(&instruction, code + 4, sizeof(instruction));
    }
    (void)index;
    return instruction == stp_x16_x30;
#endif
}

static const char *
version_of(const struct view *view, size_t symbol)
{
    if (view->versym == NULL || view->verneed == NULL) {
        return NULL;
    }
    unsigned index = view->versym[symbol] & 0x7fffu;
    const char *need = (const char *)view->verneed;
    for (;;) {
        const ElfW(Verneed) *n = (const ElfW(Verneed) *)need;
        const char *aux = need + n->vn_aux;
        for (unsigned i = 0; i < n->vn_cnt; i++) {
            const ElfW(Vernaux) *a = (const ElfW(Vernaux) *)aux;
            if (a->vna_other == index) {
                return view->strings + a->vna_name;
            }
            aux += a->vna_next;
        }
        if (n->vn_next == 0) {
            return NULL;
        }
        need += n->vn_next;
    }
}

static struct record *
new_record(struct pass *pass, struct object *object)
{
    if (object->count == object->room) {
        size_t room = object->room == 0 ? 16 : object->room * 2;
        struct record *more = realloc(object->records, room * sizeof(*more));
        if (more == NULL) {
            pass->err = -ENOMEM;
            return NULL;
        }
        object->records = more;
        object->room = room;
    }
    return &object->records[object->count++];
}

/* A thread that was binding a slot lazily while we replaced it has written the
 * real function over ours. */
static void
put_back_ours(struct pass *pass, struct object *object)
{
    for (size_t i = 0; i < object->count; i++) {
        const struct record *r = &object->records[i];
        const struct lg_slot_want *want = &pass->slots->wants[r->want];
        if (lg_load_relaxed(r->word) == want->next) {
            write_word(pass, r->word, want->ours);
        }
    }
    close_page(pass);
}

/* ---- writing ------------------------------------------------------------ */

/* Slots come in order of address: a page is opened once for all of its own. */
static bool
write_word(struct pass *pass, uint64_t *word, uint64_t value)
{
    uintptr_t page = (uintptr_t)word & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    if (page != pass->open_page) {
        close_page(pass);
        int prot = protection(pass, page);
        if (prot < 0) {
            return false;
        }
        if ((prot & PROT_WRITE) == 0) {
            size_t size = (size_t)sysconf(_SC_PAGESIZE);
            if (mprotect((void *)page, size, prot | PROT_READ | PROT_WRITE) != 0) {
                return false;
            }
            pass->open_page = page;
            pass->open_prot = prot;
        }
    }
    lg_store_relaxed(word, value);      /* one aligned word: callers see old or new */
    return true;
}

static void
close_page(struct pass *pass)
{
    if (pass->open_page != 0) {
        mprotect((void *)pass->open_page, (size_t)sysconf(_SC_PAGESIZE), pass->open_prot);
        pass->open_page = 0;
    }
}

/* As /proc/self/maps says; -1 where that cannot be read. The program headers
 * do not tell what another tool has done to the page. */
static int
protection(struct pass *pass, uintptr_t address)
{
    if (!pass->maps_read) {
        read_maps(pass);
    }
    for (size_t i = 0; pass->maps != NULL && i < pass->map_count; i++) {
        if (address >= pass->maps[i].lo && address < pass->maps[i].hi) {
            return pass->maps[i].prot;
        }
    }
    return -1;
}

static void
read_maps(struct pass *pass)
{
    FILE *file = fopen("/proc/self/maps", "re");
    char *line = NULL;
    size_t line_size = 0;
    size_t room = 0;
    pass->maps_read = true;
    while (file != NULL && getline(&line, &line_size, file) > 0) {
        struct mapping m;
        char flags[5];
        if (sscanf(line, "%lx-%lx %4s", &m.lo, &m.hi, flags) != 3) {
            continue;
        }
        m.prot = (flags[0] == 'r' ? PROT_READ : 0) | (flags[1] == 'w' ? PROT_WRITE : 0) |
                 (flags[2] == 'x' ? PROT_EXEC : 0);
        if (pass->maps == NULL || pass->map_count == room) {
            room = room == 0 ? 256 : room * 2;
            struct mapping *more = realloc(pass->maps, room * sizeof(*more));
            if (more == NULL) {
                break;
            }
            pass->maps = more;
        }
        pass->maps[pass->map_count++] = m;
    }
    free(line);
    if (file != NULL) {
        fclose(file);
    }
}

static void
end_pass(struct pass *pass)
{
    free(pass->maps);
    pass->maps = NULL;
    pass->maps_read = false;
}
