/*
 * sums.c - see sums.h.
 */
#include "sums.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 64

static bool grow(struct lg_sums *sums);
static bool grow_keys(struct lg_sums *sums, size_t length);
static uint32_t hash_of(const char *key, size_t length);

uint64_t *
lg_sums_at(struct lg_sums *sums, const char *key, size_t length)
{
    uint32_t hash = hash_of(key, length);
    if (length > LG_SUMS_MAX_KEY || (sums->count == sums->room && !grow(sums))) {
        return NULL;
    }
    uint32_t at = hash & (sums->buckets - 1);
    while (sums->bucket[at] != 0) {
        uint32_t index = sums->bucket[at] - 1;
        const struct lg_sums_entry *e = &sums->entry[index];
        if (e->hash == hash && e->length == length &&
            memcmp(sums->keys + e->key, key, length) == 0) {
            return sums->value + (size_t)index * sums->words;
        }
        at = (at + 1) & (sums->buckets - 1);
    }
    if (sums->keys_room - sums->keys_used < length && !grow_keys(sums, length)) {
        return NULL;
    }
    uint32_t index = sums->count++;
    uint64_t *words = sums->value + (size_t)index * sums->words;
    sums->entry[index] =
        (struct lg_sums_entry){.key = sums->keys_used, .length = (uint32_t)length, .hash = hash};
    memcpy(sums->keys + sums->keys_used, key, length);
    sums->keys_used += (uint32_t)length;
    memset(words, 0, sums->words * sizeof(*words));
    sums->bucket[at] = index + 1;
    return words;
}

int
lg_sums_add(struct lg_sums *into, const struct lg_sums *from)
{
    for (uint32_t i = 0; i < from->count; i++) {
        uint64_t *to = lg_sums_at(into, lg_sums_key(from, i), from->entry[i].length);
        const uint64_t *words = lg_sums_words(from, i);
        if (to == NULL) {
            return -ENOMEM;
        }
        for (uint32_t w = 0; w < from->words; w++) {
            to[w] += words[w];
        }
    }
    return 0;
}

void
lg_sums_clear(struct lg_sums *sums)
{
    sums->count = 0;
    sums->keys_used = 0;
    if (sums->bucket != NULL) {
        memset(sums->bucket, 0, sums->buckets * sizeof(*sums->bucket));
    }
}

void
lg_sums_free(struct lg_sums *sums)
{
    free(sums->entry);
    free(sums->value);
    free(sums->bucket);
    free(sums->keys);
    *sums = (struct lg_sums){.words = sums->words};
}

/* Twice the room; the hash table stays at most half full. */
static bool
grow(struct lg_sums *sums)
{
    uint32_t room = sums->room != 0 ? 2 * sums->room : FIRST_ROOM;
    struct lg_sums_entry *entry = realloc(sums->entry, room * sizeof(*entry));
    sums->entry = entry != NULL ? entry : sums->entry;
    uint64_t *value = realloc(sums->value, (size_t)room * sums->words * sizeof(*value));
    sums->value = value != NULL ? value : sums->value;
    uint32_t *bucket = calloc(2 * (size_t)room, sizeof(*bucket));
    if (entry == NULL || value == NULL || bucket == NULL) {
        free(bucket);
        return false;
    }
    free(sums->bucket);
    sums->bucket = bucket;
    sums->buckets = 2 * room;
    sums->room = room;
    for (uint32_t i = 0; i < sums->count; i++) {
        uint32_t at = sums->entry[i].hash & (sums->buckets - 1);
        while (bucket[at] != 0) {
            at = (at + 1) & (sums->buckets - 1);
        }
        bucket[at] = i + 1;
    }
    return true;
}

static bool
grow_keys(struct lg_sums *sums, size_t length)
{
    size_t room = 2 * ((size_t)sums->keys_room + length + 1024);
    char *keys = room < UINT32_MAX ? realloc(sums->keys, room) : NULL;
    if (keys == NULL) {
        return false;
    }
    sums->keys = keys;
    sums->keys_room = (uint32_t)room;
    return true;
}

/* FNV-1a. */
static uint32_t
hash_of(const char *key, size_t length)
{
    uint32_t hash = UINT32_C(2166136261);
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)key[i]) * UINT32_C(16777619);
    }
    return hash ^ hash >> 15;
}
