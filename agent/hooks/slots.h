/*
 * slots.h - finds, replaces and restores the slots through which the loaded
 * ELF objects call functions of libc.
 *
 * A slot is a word that the dynamic linker filled with a function's address:
 * JUMP_SLOT and GLOB_DAT of the global offset table, and plain 64-bit words
 * (a table of function pointers, as sqlite's). Nothing is written but such
 * words; code is never touched.
 *
 * What is left alone:
 *   - libc, its older parts (libpthread, librt, libdl), ld.so, sanitizers, and
 *     the object that holds us, unless that is the program itself;
 *   - a slot whose function is neither `next` nor still unbound: another tool
 *     has put its own there, or it is another version of the symbol. Counted.
 *
 * One function that everybody calls, LD_PRELOAD's or a sanitizer's, is no such
 * tool: it is then `next` for all, so that what we do stands in front of it
 * and it still runs. See lg_slots_next().
 *
 * One thread at a time. Objects cannot be unloaded while we write: all work is
 * done inside dl_iterate_phdr(). Page protection is put back as it was found,
 * so RELRO stays in force. Survives fork: the child has its own copy of slots
 * and of what we remember.
 */
#ifndef LG_SLOTS_H
#define LG_SLOTS_H

#include <stddef.h>
#include <stdint.h>

struct lg_slots;

/* One function to replace. The array belongs to the caller and outlives us. */
struct lg_slot_want {
    const char *name;
    uintptr_t ours;
    uintptr_t next;                     /* the real one; 0 = not there, ignored */
    uintptr_t only_in;                  /* an address: that object's slots only. 0 = all */
    uintptr_t not_in;                   /* an address: not that object's slots. 0 = all */
};

/* The function that a newly loaded object would be bound to: the first one in
 * the global scope, but libc's own where that is merely the PLT entry of a
 * non-PIE program (its slot leads back to us). 0 when there is none. */
uintptr_t lg_slots_next(const char *name);

/* Nothing is replaced yet. -ENOTSUP on an architecture without known
 * relocation numbers, -ENOMEM, -EINVAL for too many wants. */
int lg_slots_open(struct lg_slots **out, const struct lg_slot_want *wants, size_t count);

/* Replaces in all objects not yet seen; about 0.1 us when nothing was loaded
 * or unloaded since. -ENOMEM: what was replaced so far is remembered. */
int lg_slots_scan(struct lg_slots *slots);

/* Restores what still holds our functions, frees `slots`. */
void lg_slots_close(struct lg_slots *slots);

struct lg_slots_count {
    uint32_t objects;                   /* scanned and still loaded */
    uint32_t held;                      /* slots that hold our functions now */
    uint32_t foreign;                   /* left to another tool, then or since */
    uint32_t refused;                   /* the page could not be made writable */
};
void lg_slots_count(struct lg_slots *slots, struct lg_slots_count *out);

/* How many slots of want `i` hold ours now. */
uint32_t lg_slots_held(struct lg_slots *slots, size_t i);

#endif
