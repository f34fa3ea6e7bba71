/*
 * slice_told.c - a slice as Python objects. Under the GIL; lines and names are
 * looked up here, long after the calls.
 */
#include "slice_private.h"

#include <string.h>

#include "../../common/lg_clock.h"
#include "../../common/lg_geometry.h"
#include "../pycompat.h"

static double seconds_since_1970(uint64_t mono_ns);
static PyObject *own_stack(const struct lg_slice_call *call);
static PyObject *raw_stack(struct lg_slices *s, const struct lg_pystack_sample *raw,
                           uint32_t depth);
static void open_walker(struct lg_slices *s, struct lg_agent *agent);

PyObject *
lg_slice_events(const struct lg_slice_room *room)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = room->slice[room->depth].first_call; list != NULL && i < room->calls; i++) {
        const struct lg_slice_call *call = &room->call[i];
        PyObject *duration = call->duration_ns == LG_NONE
                                 ? Py_NewRef(Py_None)
                                 : PyLong_FromUnsignedLongLong(call->duration_ns);
        PyObject *stack = own_stack(call);
        PyObject *one = duration != NULL && stack != NULL
                            ? Py_BuildValue("(OOOdiO)", call->name, call->args, stack,
                                            seconds_since_1970(call->at_ns), call->weight, duration)
                            : NULL;
        if (one == NULL || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
        Py_XDECREF(stack);
        Py_XDECREF(duration);
    }
    return list;
}

static double
seconds_since_1970(uint64_t mono_ns)
{
    struct lg_clocks clocks;
    lg_clocks_read(&clocks);
    return (double)(clocks.real_ns - (clocks.mono_ns - mono_ns)) / 1e9;
}

/* The longest call of those that no audit event told of, made by C code: the same
 * tuple; NULL when it took less than `least_ns`. */
PyObject *
lg_slice_measured(struct lg_slices *s, const struct lg_loop *loop, uint64_t since_ns,
                  uint64_t least_ns, int *weight)
{
    const struct lg_call *call = lg_calls_longest_since(&loop->calls, since_ns);
    if (call == NULL || call->class == LG_CALL_CLASS_GIL || call->dur_ns < least_ns) {
        return NULL;
    }
    *weight = call->class == LG_CALL_CLASS_DISK ? LG_SLICE_MODERATE : LG_SLICE_HIGH;
    char text[LG_CALL_DETAIL + 32];
    lg_call_format(call, text, sizeof(text));
    const char *kind = lg_call_kind_text(call->kind);
    const char *rest = strncmp(text, kind, strlen(kind)) == 0 ? text + strlen(kind) : text;
    while (*rest == ' ') {
        rest++;
    }
    bool has_stack = loop->slow_call_ns >= since_ns && loop->slow_call_stack.depth != 0;
    open_walker(s, loop->agent);
    PyObject *stack =
        has_stack ? raw_stack(s, &loop->slow_call_stack, s->options.event_depth) : PyList_New(0);
    PyObject *detail = PyUnicode_DecodeUTF8(rest, (Py_ssize_t)strlen(rest), "replace");
    PyObject *one = NULL;
    if (stack != NULL && detail != NULL) {
        one = Py_BuildValue("(s(O)OdiK)", kind, detail, stack, seconds_since_1970(call->start_ns),
                            *weight, (unsigned long long)call->dur_ns);
    }
    Py_XDECREF(detail);
    Py_XDECREF(stack);
    PyErr_Clear();
    return one;
}

static PyObject *
own_stack(const struct lg_slice_call *call)
{
    PyObject *list = PyList_New((Py_ssize_t)call->depth);
    for (uint32_t i = 0; list != NULL && i < call->depth; i++) {
        PyCodeObject *code = (PyCodeObject *)call->code[i];
        int at = call->at[i];
        int line = call->has_lines ? at : PyCode_Addr2Line(code, at < 0 ? 0 : at);
        PyObject *one = Py_BuildValue("(OiO)", code->co_filename, line, code->co_name);
        if (one == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, one);
    }
    return list;
}

/* Of frames taken without the GIL: their code may be gone. */
static PyObject *
raw_stack(struct lg_slices *s, const struct lg_pystack_sample *raw, uint32_t depth)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < raw->depth && i < depth; i++) {
        struct lg_pystack_symbol symbol;
        if (lg_pystack_symbol(s->walker, &raw->frames[i], &symbol) != 0) {
            continue;
        }
        const char *name = strrchr(symbol.name, '.');   /* "f.<locals>.g" is told as "g" */
        name = name != NULL && name[1] != '\0' ? name + 1 : symbol.name;
        PyObject *file = PyUnicode_DecodeUTF8(symbol.file, symbol.file_size_bytes, "replace");
        PyObject *function = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
        PyObject *one = file != NULL && function != NULL
                            ? Py_BuildValue("(OiO)", file, (int)symbol.line, function)
                            : NULL;
        if (one == NULL || PyList_Append(list, one) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
        Py_XDECREF(function);
        Py_XDECREF(file);
    }
    return list;
}

PyObject *
lg_slice_samples(struct lg_slices *s, struct lg_agent *agent, const struct lg_slice_room *room,
                 uint64_t serial)
{
    PyObject *list = PyList_New(0);
    /* Pairs with the release in lg_slice_watch(): the count is of this slice. */
    if (lg_load_acquire(&room->sampled) != serial) {
        return list;
    }
    uint32_t n = lg_load32_acquire(&room->stacks);
    if (n > 0) {
        open_walker(s, agent);
        lg_pystack_begin(s->walker);
    }
    for (uint32_t i = 0; list != NULL && i < n; i++) {
        PyObject *stack = raw_stack(s, &room->seen[i].frames, s->options.sample_depth);
        PyObject *one = stack != NULL
                            ? Py_BuildValue("(OI)", stack, lg_load32_relaxed(&room->seen[i].count))
                            : NULL;
        if (one == NULL || (PyList_GET_SIZE(stack) > 0 && PyList_Append(list, one) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
        Py_XDECREF(stack);
    }
    if (n > 0) {
        lg_pystack_end(s->walker);
    }
    return list;
}

/* Left NULL where stacks are off: names are then not found. */
static void
open_walker(struct lg_slices *s, struct lg_agent *agent)
{
    if (s->walker == NULL && agent->pystack != NULL &&
        lg_pystack_walker_open(agent->pystack, &s->walker) != 0) {
        s->walker = NULL;
    }
}

/* {cause: ns}; they sum to the slice. What charge.c measured, where it did;
 * else what the hooks summed, and the rest was the processor's. */
PyObject *
lg_slice_blocked(const struct lg_loop *loop, const struct lg_slice *slice, uint64_t elapsed_ns)
{
    static const char *const names[LG_CAUSE_COUNT] = {
#define LG_X(name, number, text) [number] = text,
        LG_CAUSES(LG_X)
#undef LG_X
    };
    uint64_t parts[LG_CAUSE_COUNT] = {0};
    struct lg_sums now = lg_loop_sums(loop);
    if (slice->parts_of_ns > elapsed_ns - elapsed_ns / 8) {
        memcpy(parts, slice->parts_ns, sizeof(parts));
    }
    else {
        parts[LG_CAUSE_IO] = now.io - slice->sums.io;
        parts[LG_CAUSE_DISK] = now.disk - slice->sums.disk;
        parts[LG_CAUSE_LOCK] = now.lock - slice->sums.lock;
        parts[LG_CAUSE_GIL] = now.gil - slice->sums.gil;
        parts[LG_CAUSE_GC] = loop->gc_ns - slice->gc_ns;
        uint64_t known = 0;
        for (int i = 0; i < LG_CAUSE_COUNT; i++) {
            known += parts[i];
        }
        parts[LG_CAUSE_CPU] = elapsed_ns > known ? elapsed_ns - known : 0;
    }
    PyObject *dict = PyDict_New();
    for (int i = 0; dict != NULL && i < LG_CAUSE_COUNT; i++) {
        PyObject *ns = parts[i] != 0 ? PyLong_FromUnsignedLongLong(parts[i]) : NULL;
        if (parts[i] != 0 && (ns == NULL || PyDict_SetItemString(dict, names[i], ns) < 0)) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(ns);
    }
    return dict;
}

PyObject *
lg_slice_request(const struct lg_agent *agent, const struct lg_owner *owner)
{
    static const char *const methods[] = {
#define LG_X(name, number, text) [number] = text,
        LG_METHODS(LG_X)
#undef LG_X
    };
    if (owner == NULL || !lg_owner_is_current(owner) ||
        (owner->kind != LG_KIND_REQUEST && owner->kind != LG_KIND_WEBSOCKET)) {
        return Py_NewRef(Py_None);
    }
    char route[512] = "";
    char id[16];
    const struct lg_segment *seg = &agent->rec.seg;
    if (owner->endpoint >= 0 && seg->endpoints != NULL) {
        uint64_t key = lg_load_relaxed(&seg->endpoints[owner->endpoint].key);
        (void)lg_string_get(seg->strings, seg->string_bytes, LG_KEY_NAME(key), route,
                            sizeof(route));
    }
    snprintf(id, sizeof(id), "%08x", owner->id);
    return Py_BuildValue("{s:s,s:z,s:s}", "method", methods[owner->method], "route",
                         route[0] != '\0' ? route : NULL, "request_id", id);
}
