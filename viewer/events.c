/*
 * events.c - stacks with names, events newest first, who waited; see model.h.
 *
 * Events are the stalls that the segment keeps, not a log of the viewer's own:
 * a viewer that attaches now, or after the worker's death, sees the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model_private.h"

static void build_stack(struct lg_worker *w, uint32_t innermost, uint32_t depth,
                        struct lg_stack_view *out);
static void name_frame(struct lg_worker *w, const struct lg_frame *frame,
                       struct lg_stack_frame *out);
static void mark_endpoint(struct lg_stack_view *stack);
static bool is_framework(const char *short_file);
static bool grow_events(struct lg_top *top, size_t count);
static size_t add_stalls(struct lg_top *top, size_t worker, const struct lg_view *view,
                         size_t count);
static size_t add_marks(struct lg_top *top, size_t worker, size_t count);
static const char *mark_text(const struct lg_record *rec);
static int newest_first(const void *a, const void *b);
static bool filter_part(const char *part, size_t length, const struct lg_key *key,
                        const char *more);
static bool has_part(const char *text, const char *part, size_t length);

/* ---- stacks ------------------------------------------------------------ */

const struct lg_stack_frame *
lg_stack_user_frame(const struct lg_stack_view *stack)
{
    for (uint32_t i = 0; i < stack->depth; i++) {
        if (stack->frame[i].origin == LG_ORIGIN_USER) {
            return &stack->frame[i];
        }
    }
    return stack->depth > 0 ? &stack->frame[0] : NULL;
}

/* NULL for id 0 and for one that is not there. */
const struct lg_stack_view *
lg_worker_stack(struct lg_worker *w, uint32_t id)
{
    struct lg_worker_private *p = w->private;
    const struct lg_snapshot *snap = w->snap;
    if (id == 0 || id >= p->stack_count || id >= snap->tables.stacks_used) {
        return NULL;
    }
    const struct lg_stack *stack = &snap->stacks[id];
    /* A slot is never reused; a changed hash means that we saw it half made. */
    uint64_t hash = stack->hash ^ stack->frame_depth;
    if (p->stacks[id] != NULL && p->stack_hash[id] == hash) {
        return p->stacks[id];
    }
    if (p->stacks[id] == NULL) {
        p->stacks[id] = calloc(1, sizeof(*p->stacks[id]));
    }
    if (p->stacks[id] == NULL) {
        return NULL;
    }
    build_stack(w, LG_LO(stack->frame_depth), LG_HI(stack->frame_depth), p->stacks[id]);
    p->stacks[id]->moving = (LG_HI(stack->endpoint_flags) & LG_STALL_MOVING) != 0;
    p->stack_hash[id] = hash;
    return p->stacks[id];
}

void
lg_worker_forget_stacks(struct lg_worker *w)
{
    struct lg_worker_private *p = w->private;
    for (uint32_t i = 0; p->stacks != NULL && i < p->stack_count; i++) {
        free(p->stacks[i]);
        p->stacks[i] = NULL;
    }
}

static void
build_stack(struct lg_worker *w, uint32_t innermost, uint32_t depth, struct lg_stack_view *out)
{
    const struct lg_snapshot *snap = w->snap;
    uint32_t index = innermost;
    memset(out, 0, sizeof(*out));
    /* Bounded by depth and by next < own index: no link can lead in a ring. */
    while (index != 0 && out->depth < LG_MAX_DEPTH && out->depth < depth) {
        if (index >= snap->tables.frames_used) {
            out->damaged = true;
            break;
        }
        const struct lg_frame *frame = &snap->frames[index];
        name_frame(w, frame, &out->frame[out->depth++]);
        if (frame->next >= index) {
            out->damaged = true;
            break;
        }
        index = frame->next;
    }
    mark_endpoint(out);
}

static void
name_frame(struct lg_worker *w, const struct lg_frame *frame, struct lg_stack_frame *out)
{
    struct lg_worker_private *p = w->private;
    out->function = lg_snapshot_text(w->snap, frame->function);
    out->file = lg_snapshot_text(w->snap, frame->file);
    out->line = frame->line;
    out->short_file = out->file;
    out->origin = lg_format_origin(out->file, w->cwd, w->prefix);
    if (frame->file >= p->file_count) {
        return;
    }
    struct lg_file_text *text = &p->files[frame->file];
    if (text->short_file == NULL && lg_snapshot_text_ok(w->snap, frame->file)) {
        char shorter[4 * LG_MAX_STRING + 4];
        lg_format_file(out->file, w->cwd, w->prefix, shorter, sizeof(shorter));
        text->short_file = strdup(shorter);
    }
    if (text->short_file != NULL) {
        out->short_file = text->short_file;
    }
}

/* The endpoint's own function: the outermost frame of user code before the
 * framework that called it; without one, the outermost that is no module. */
static void
mark_endpoint(struct lg_stack_view *stack)
{
    uint32_t found = UINT32_MAX;
    for (uint32_t i = 0; i < stack->depth; i++) {
        const struct lg_stack_frame *f = &stack->frame[i];
        if (f->origin == LG_ORIGIN_USER && strcmp(f->function, "<module>") != 0) {
            found = i;
        }
        else if (found != UINT32_MAX && is_framework(f->short_file)) {
            break;
        }
    }
    if (found != UINT32_MAX) {
        stack->frame[found].endpoint = true;
    }
}

static bool
is_framework(const char *short_file)
{
    static const char *const names[] = {
        "fastapi/", "starlette/", "uvicorn/", "asyncio/", "uvloop/",   "hypercorn/",
        "granian/", "litestar/",  "quart/",   "anyio/",   "gunicorn/", "loopguard/",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strncmp(short_file, names[i], strlen(names[i])) == 0) {
            return true;
        }
    }
    return false;
}

void
lg_worker_task(struct lg_worker *w, uint32_t id, char *out, size_t size)
{
    if ((id & LG_TASK_NUMBER_BIT) != 0) {
        snprintf(out, size, "Task-%u", id & ~LG_TASK_NUMBER_BIT);
    }
    else {
        snprintf(out, size, "%s", lg_snapshot_text(w->snap, id));
    }
}

/* ---- events ------------------------------------------------------------ */

size_t
lg_top_events(struct lg_top *top, size_t worker, const struct lg_view *view,
              const struct lg_event **out)
{
    size_t count = 0;
    size_t first = worker == LG_ALL_WORKERS ? 0 : worker;
    size_t end = worker == LG_ALL_WORKERS ? top->worker_count : worker + 1;
    for (size_t i = first; i < end; i++) {
        if (view->hide_dead && top->workers[i]->post_mortem) {
            continue;
        }
        count = add_stalls(top, i, view, count);
        count = add_marks(top, i, count);
    }
    if (count > 1) {
        qsort(top->private->events, count, sizeof(*top->private->events), newest_first);
    }
    *out = top->private->events;
    return count;
}

void
lg_top_event_counts(const struct lg_top *top, size_t worker, uint64_t *seen, uint64_t *kept,
                    uint64_t *lost)
{
    *seen = *kept = *lost = 0;
    for (size_t i = 0; i < top->worker_count; i++) {
        const struct lg_snapshot *snap = top->workers[i]->snap;
        if (worker != LG_ALL_WORKERS && worker != i) {
            continue;
        }
        uint64_t here = 0;
        for (uint32_t k = 0; k < snap->stall_count; k++) {
            here += snap->stalls[k].ticket != 0;
        }
        *seen += snap->tables.stalls_head > here ? snap->tables.stalls_head : here;
        *kept += here;
        *lost += snap->stalls_lost;
    }
}

bool
lg_top_event_detail(struct lg_top *top, const struct lg_event *event, struct lg_event_detail *out)
{
    memset(out, 0, sizeof(*out));
    out->event = *event;
    out->thread = "";
    out->call = "";
    if (event->worker >= top->worker_count || event->kind == LG_EVENT_MARK) {
        return event->kind == LG_EVENT_MARK;
    }
    struct lg_worker *w = top->workers[event->worker];
    const struct lg_stall *stall = lg_snapshot_stall(w->snap, event->ticket);
    if (stall == NULL) {
        return false;
    }
    lg_worker_task(w, LG_HI(stall->request_task), out->task, sizeof(out->task));
    out->thread = lg_snapshot_text(w->snap, LG_HI(stall->call_thread));
    out->tid = LG_HI(stall->samples_tid);
    memcpy(out->parts_ns, stall->parts_ns, sizeof(out->parts_ns));
    out->call = lg_snapshot_text(w->snap, LG_LO(stall->call_thread));
    out->call_ns = stall->call_ns != 0 ? stall->call_ns : LG_NONE;
    out->samples = LG_LO(stall->samples_tid);
    out->steps = stall->steps;
    out->major_faults = stall->major_faults;
    const struct lg_stack_view *stack = lg_worker_stack(w, LG_LO(stall->stack_holder_stack));
    const struct lg_stack_view *holder = lg_worker_stack(w, LG_HI(stall->stack_holder_stack));
    if (stack != NULL) {
        out->stack = *stack;
        out->stack.moving = (event->flags & LG_STALL_MOVING) != 0;
    }
    if (holder != NULL) {
        out->holder_stack = *holder;
    }
    if (LG_HI(stall->endpoint_holder) != 0) {
        out->holder = lg_worker_key(w, LG_HI(stall->endpoint_holder));
    }
    lg_stall_waited(w, stall, &out->waited);
    return true;
}

void
lg_event_of(struct lg_top *top, size_t worker, const struct lg_stall *stall, bool torn,
            struct lg_event *out)
{
    struct lg_worker *w = top->workers[worker];
    const struct lg_stack_view *stack = lg_worker_stack(w, LG_LO(stall->stack_holder_stack));
    *out = (struct lg_event){
        .worker = worker,
        .ticket = stall->ticket - 1,
        .mono_ns = stall->start_ns,
        .real_ns = lg_worker_real(w, stall->start_ns),
        .duration_ns = stall->duration_ns,
        .threshold_ns = stall->threshold_ns,
        .kind = LG_INFO_KIND(stall->info),
        .cause = LG_INFO_CAUSE(stall->info),
        .flags = LG_INFO_FLAGS(stall->info),
        .loop = LG_INFO_LOOP(stall->info),
        .torn = torn,
        .request_id = LG_LO(stall->request_task),
        .key = lg_worker_key(w, LG_LO(stall->endpoint_holder)),
        .innermost = stack != NULL && stack->depth > 0 ? &stack->frame[0] : NULL,
        .user = stack != NULL ? lg_stack_user_frame(stack) : NULL,
        .waited_requests = stall->waited_requests,
    };
    out->ongoing = (out->flags & LG_STALL_ONGOING) != 0;
    if (out->user != NULL && out->user->origin != LG_ORIGIN_USER) {
        out->user = NULL;
    }
    if (out->ongoing) {
        out->waited_requests = LG_NONE;
        /* It has lasted at least until now, when it is what we see. */
        if (lg_worker_in_block(w) && w->blocked.loop == out->loop && w->blocked.kind == out->kind &&
            w->blocked.step == stall->step) {
            out->duration_ns = w->blocked.for_ns;
        }
    }
}

static bool
grow_events(struct lg_top *top, size_t count)
{
    struct lg_top_private *p = top->private;
    if (count < p->event_room) {
        return true;
    }
    size_t room = p->event_room != 0 ? 2 * p->event_room : 256;
    struct lg_event *larger = realloc(p->events, room * sizeof(*larger));
    if (larger == NULL) {
        return false;
    }
    p->events = larger;
    p->event_room = room;
    return true;
}

static size_t
add_stalls(struct lg_top *top, size_t worker, const struct lg_view *view, size_t count)
{
    struct lg_worker *w = top->workers[worker];
    const struct lg_baseline *zero = w->private->baseline;
    for (uint32_t i = 0; i < w->snap->stall_count; i++) {
        const struct lg_stall *stall = &w->snap->stalls[i];
        struct lg_event event;
        char task[128];
        if (stall->ticket == 0 || (zero != NULL && stall->start_ns < zero->at_ns)) {
            continue;
        }
        lg_event_of(top, worker, stall, w->snap->stall_torn[i], &event);
        lg_worker_task(w, LG_HI(stall->request_task), task, sizeof(task));
        if (event.duration_ns < view->min_ns ||
            !lg_filter_matches(view->filter, &event.key, task) || !grow_events(top, count)) {
            continue;
        }
        top->private->events[count++] = event;
    }
    return count;
}

/* What is no block but belongs in the same order: start, loops, exit, jumps of
 * the clock. */
static size_t
add_marks(struct lg_top *top, size_t worker, size_t count)
{
    struct lg_worker *w = top->workers[worker];
    for (uint32_t r = 0; r < LG_RINGS; r++) {
        const struct lg_records *ring = &w->snap->rings[r];
        if (ring->ring_class != LG_RING_RARE) {
            continue;
        }
        for (uint64_t t = ring->from; t < ring->to; t++) {
            const struct lg_record *rec = lg_snapshot_record(w->snap, r, t);
            const char *text = rec != NULL ? mark_text(rec) : NULL;
            if (text == NULL || !grow_events(top, count)) {
                continue;
            }
            if (LG_TAG_KIND(rec->tag) == LG_REC_MARK) {
                text = lg_snapshot_text(w->snap, (uint32_t)rec->p[0]);
            }
            top->private->events[count++] = (struct lg_event){
                .worker = worker,
                .ticket = t,
                .mono_ns = rec->time_ns,
                .real_ns = lg_worker_real(w, rec->time_ns),
                .kind = LG_EVENT_MARK,
                .cause = LG_CAUSE_UNKNOWN,
                .key = {LG_KIND_LOOP, LG_METHOD_NONE, ""},
                .mark = text,
                .waited_requests = LG_NONE,
            };
        }
    }
    return count;
}

static const char *
mark_text(const struct lg_record *rec)
{
    switch (LG_TAG_KIND(rec->tag)) {
    case LG_REC_LIFECYCLE:
        switch (rec->p[0]) {
        case LG_LIFE_START:
            return "worker started";
        case LG_LIFE_LOOP_ADDED:
            return "event loop added";
        case LG_LIFE_LOOP_CLOSED:
            return "event loop closed";
        case LG_LIFE_FORK_CHILD:
            return "forked from a worker";
        case LG_LIFE_CLEAN_EXIT:
            return "worker ended";
        case LG_LIFE_CONFIG_CHANGE:
            return "options changed";
        default:
            return NULL;
        }
    case LG_REC_CLOCK_STEP:
        return "the wall clock was set";
    case LG_REC_OVERFLOW:
        return "a table became full";
    case LG_REC_MARK:
        return "";
    default:
        return NULL;
    }
}

static int
newest_first(const void *a, const void *b)
{
    const struct lg_event *x = a;
    const struct lg_event *y = b;
    if (x->mono_ns != y->mono_ns) {
        return x->mono_ns > y->mono_ns ? -1 : 1;
    }
    if (x->worker != y->worker) {
        return x->worker < y->worker ? -1 : 1;
    }
    return x->ticket > y->ticket ? -1 : x->ticket < y->ticket ? 1 : 0;
}

void
lg_stall_waited(struct lg_worker *w, const struct lg_stall *stall, struct lg_waiting *out)
{
    bool ongoing = (LG_INFO_FLAGS(stall->info) & LG_STALL_ONGOING) != 0;
    memset(out, 0, sizeof(*out));
    out->requests = ongoing ? LG_LO(stall->waiting_open) : stall->waited_requests;
    out->longest_ns = ongoing ? LG_NONE : stall->waited_longest_ns;
    out->sum_ns = ongoing ? LG_NONE : stall->waited_sum_ns;
    for (size_t i = 0; i < LG_WAITED_ENDPOINTS && !ongoing; i++) {
        uint32_t requests = LG_HI(stall->waited[i].endpoint_count);
        if (requests != 0) {
            out->endpoint[out->endpoint_count++] = (struct lg_waiting_endpoint){
                .key = lg_worker_key(w, LG_LO(stall->waited[i].endpoint_count)),
                .requests = requests,
                .wait_ns = stall->waited[i].ns,
            };
        }
    }
}

/* ---- filter ------------------------------------------------------------ */

/* Parts joined by '|', any of them, without case, anywhere in "METHOD name" or
 * in `more`. */
bool
lg_filter_matches(const char *filter, const struct lg_key *key, const char *more)
{
    if (filter == NULL || filter[0] == '\0') {
        return true;
    }
    for (const char *part = filter;;) {
        size_t length = strcspn(part, "|");
        if (length > 0 && filter_part(part, length, key, more)) {
            return true;
        }
        if (part[length] == '\0') {
            return false;
        }
        part += length + 1;
    }
}

static bool
filter_part(const char *part, size_t length, const struct lg_key *key, const char *more)
{
    char whole[4 * LG_MAX_STRING + 64];
    const char *label = lg_format_label(key->kind, key->method, key->name);
    snprintf(whole, sizeof(whole), "%s %s", label, key->name);
    return has_part(whole, part, length) || (more != NULL && has_part(more, part, length));
}

static bool
has_part(const char *text, const char *part, size_t length)
{
    for (; *text != '\0'; text++) {
        if (strncasecmp(text, part, length) == 0) {
            return true;
        }
    }
    return false;
}
