/*
 * note.c - the queue from a loop thread to the watchdog.
 */
#include "note.h"

#include <string.h>

#include "../../common/lg_atomic.h"

struct lg_note *
lg_note_begin(struct lg_notes *notes)
{
    uint64_t head = lg_load_relaxed(&notes->head);
    /* Pairs with the release of lg_note_drop(): the slot is really free. */
    if (notes->slot == NULL || head - lg_load_acquire(&notes->tail) >= LG_NOTES) {
        lg_add_single(&notes->dropped, 1);
        return NULL;
    }
    struct lg_note *note = &notes->slot[head % LG_NOTES];
    /* The stack's frames are only read up to its depth. */
    memset(note, 0, offsetof(struct lg_note, stack.frames));
    memset(&note->waited, 0, sizeof(note->waited));
    return note;
}

void
lg_note_publish(struct lg_notes *notes)
{
    /* Pairs with the acquire of lg_note_peek(): the note is whole. */
    lg_store_release(&notes->head, lg_load_relaxed(&notes->head) + 1);
}

const struct lg_note *
lg_note_peek(struct lg_notes *notes)
{
    uint64_t tail = lg_load_relaxed(&notes->tail);
    if (lg_load_acquire(&notes->head) == tail) {
        return NULL;
    }
    return &notes->slot[tail % LG_NOTES];
}

void
lg_note_drop(struct lg_notes *notes)
{
    lg_store_release(&notes->tail, lg_load_relaxed(&notes->tail) + 1);
}
