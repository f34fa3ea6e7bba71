/*
 * sums.h - numbers by label values: what a family of metrics adds up to.
 *
 * A key is the label values in the family's order, each with its NUL. An entry
 * has as many words as the table was made for: one, or a histogram's. Entries
 * keep the order in which they came, so an exposition is stable.
 *
 * One thread. Memory is the only thing that can run out.
 */
#ifndef LG_READER_SUMS_H
#define LG_READER_SUMS_H

#include <stddef.h>
#include <stdint.h>

#define LG_SUMS_MAX_KEY 1536            /* all label values of an entry */

struct lg_sums_entry {
    uint32_t key;                       /* offset in `keys` */
    uint32_t length;
    uint32_t hash;
};

struct lg_sums {                        /* zero it, then set `words` */
    uint32_t words;                     /* of one entry */
    uint32_t count;
    uint32_t room;
    uint32_t buckets;                   /* a power of two */
    struct lg_sums_entry *entry;
    uint64_t *value;                    /* [count * words] */
    uint32_t *bucket;                   /* entry + 1; 0 = free */
    char *keys;
    uint32_t keys_used;
    uint32_t keys_room;
};

/* The words of a key, zero when it is new; valid until the next call. NULL
 * when there is no memory, or the key is too long. */
uint64_t *lg_sums_at(struct lg_sums *sums, const char *key, size_t length);

static inline const char *
lg_sums_key(const struct lg_sums *sums, uint32_t index)
{
    return sums->keys + sums->entry[index].key;
}

static inline const uint64_t *
lg_sums_words(const struct lg_sums *sums, uint32_t index)
{
    return sums->value + (size_t)index * sums->words;
}

/* Adds all of `from`, a table of as many words. 0 or -ENOMEM. */
int lg_sums_add(struct lg_sums *into, const struct lg_sums *from);

/* Forgets the entries, keeps the memory. */
void lg_sums_clear(struct lg_sums *sums);
void lg_sums_free(struct lg_sums *sums);

#endif
