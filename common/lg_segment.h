/*
 * lg_segment.h - making, publishing and ending a segment: the writer's side.
 *
 * One segment per process, made when its first loop runs. Whatever fails on
 * the way is returned and nothing is left behind: the agent then stays off.
 * There is no repair code: start = a new segment, death = leave it.
 *
 * Create and close from one thread. The mapping's pointers are process-private;
 * after fork() the child calls lg_segment_forget() and owns nothing.
 */
#ifndef LG_SEGMENT_H
#define LG_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lg_layout.h"

/* Options of lg_segment_create(); zero gives the defaults. */
struct lg_segment_options {
    const char *dir;                    /* NULL: shm_open; else a tmpfs folder */
    uint32_t mode;                      /* 0 = 0600 */
    uint32_t endpoints;                 /* 0 = 256; 2 .. 4096 */
    struct lg_proc_info proc;           /* pid.. are filled in here where 0; start anchor too */
    struct lg_config_info config;
};

/* Typed bases of the sections, valid until close or forget. */
struct lg_segment {
    void *base;
    size_t size;
    int fd;                             /* carries the flock for life; close-on-exec */
    char path[256];                     /* as readers of this mount namespace see it */
    bool in_dir;                        /* made in options.dir, not by shm_open */
    struct lg_header *header;
    struct lg_proc_info *proc;
    struct lg_config_info *config;
    struct lg_anchor *anchor;
    struct lg_self *self;
    struct lg_feature *features;
    struct lg_tables *tables;
    uint8_t *strings;
    struct lg_endpoint *endpoints;
    struct lg_hist *hists;
    struct lg_loop_entry *loops;
    struct lg_cell *endpoint_history;   /* LG_CELLS an endpoint */
    struct lg_loop_cell *loop_history;  /* LG_LOOP_CELLS a loop */
    struct lg_stall *stalls;
    struct lg_pool *pool;
    struct lg_writer *writers;
    struct lg_ring *rings;
    struct lg_slot *slots;
    struct lg_stack *stacks;
    struct lg_frame *frames;
    uint32_t string_bytes;
    uint32_t endpoint_count;
    uint32_t loop_count;
    uint32_t stall_count;
    uint32_t stack_count;
    uint32_t frame_count;
    uint32_t feature_count;
    uint32_t hist_count;
    /* Private cursors: what is in the segment is never read back to index it. */
    uint64_t strings_used;
    uint64_t frames_used;
    int owner_pid;                      /* close() by anybody else only forgets */
};

/* O_EXCL, flock (20 tries of 1 ms), tmpfs check, fallocate, every page
 * touched, header and empty tables, magic last. Slot 0 of each table exists:
 * endpoint "(other)", string "", stack "(other stacks)", frame 0.
 * EEXIST on the name: ".1" .. ".7" are tried. 0, -errno or LG_ENOTTMPFS. */
int lg_segment_create(const struct lg_segment_options *options, struct lg_segment *out);

/* Sets the state, unmaps, closes; unlinks the file unless `keep`. */
void lg_segment_close(struct lg_segment *seg, bool keep);

/* The same, but the mapping stays for the life of the process: for when some
 * other thread may still be about to write a word. `seg` is empty after. */
void lg_segment_leave(struct lg_segment *seg, bool keep);

/* In a forked child: drops mapping and descriptor, touches no shared byte. */
void lg_segment_forget(struct lg_segment *seg);

/* "Switched off, and why" where no segment can be: a memfd with a header
 * page, found by readers through the process's fd links. Returns the
 * descriptor (kept open by the caller) or -errno. */
int lg_segment_off_note(const struct lg_proc_info *proc, const char *reason);

/* Both appends: one thread at a time (the agent's mutex); counting in SELF is
 * the caller's. Appends to STRINGS; 0 = no place (or an empty text). Cut at LG_MAX_STRING,
 * never in mid UTF-8. No duplicate check: the agent keeps that table itself. */
uint32_t lg_strings_append(struct lg_segment *seg, const char *text, size_t length);

/* Appends a frame, returns its index, 0 = table full. `next` < result. */
uint32_t lg_frames_append(struct lg_segment *seg, uint32_t file, uint32_t function, uint32_t line,
                          uint32_t next);

/* Retention: of the own uid's dead segments in `dir` (NULL: /dev/shm) keeps
 * the newest 4, at most 16 MiB and 24 h, and unlinks the rest. Dead = regular,
 * nlink 1, magic set or older than 60 s, flock taken. Returns how many were
 * removed, or -errno. `all`: keep none. */
int lg_segment_prune(const char *dir, bool all);

#endif
