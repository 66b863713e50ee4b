// JSON lines -> the text of each, unescaped, one after the other, each followed by a byte that UTF-8 never has.
//
// Only lines without any doubt: strict JSON, valid UTF-8, the field there once, or first, as a string that is not
// empty and not too long. It stops at the first other line, which is looked at by jsonl.py.
#pragma GCC optimize("O2")  // half of O3's time to compile, and as fast

#include <stdint.h>
#include <string.h>

#define WIDE 32
#define DEEPEST 64

typedef const uint8_t *Place;  // in the lines; NULL: in doubt

static Place blanks(Place at, Place end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

// Copies WIDE bytes; a bit for each that ends a string, is escaped, may not stand in one, or is not ASCII.
static uint32_t copy_wide(Place from, uint8_t *to)
{
#ifdef __AVX2__  // by the compiler's own names: including immintrin.h doubles the time that compiling takes
    typedef char Bytes __attribute__((vector_size(WIDE)));
    Bytes bytes;
    memcpy(&bytes, from, WIDE);
    memcpy(to, &bytes, WIDE);
    // As signed numbers, all above 127 are below 32 as well.
    return (uint32_t)__builtin_ia32_pmovmskb256((Bytes)((bytes < 32) | (bytes == '"') | (bytes == '\\')));
#else
    uint32_t marks = 0;
    for (int i = 0; i < WIDE; i++) {
        uint8_t byte = to[i] = from[i];
        marks |= (uint32_t)(byte < 32 || byte == '"' || byte == '\\' || byte > 127) << i;
    }
    return marks;
#endif
}

// Bytes of the character of 2 to 4 bytes at a place; 0 if it is none (Unicode 16, table 3-7).
static int character(Place at, Place end)
{
    uint8_t first = at[0];
    int size = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (!size || end - at < size)
        return 0;
    uint8_t lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < lowest || at[1] > highest)
        return 0;
    for (int i = 2; i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

static int32_t four_digits(Place at, Place end)
{
    if (end - at < 4)
        return -1;
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = at[i], letter = c | 32;
        int digit = c >= '0' && c <= '9' ? c - '0' : letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

// What follows a backslash: the character in UTF-8 at *to, which moves on.
static Place escaped(Place at, Place end, uint8_t **to)
{
    static const uint8_t meant[256] = {['"'] = '"',  ['\\'] = '\\', ['/'] = '/',  ['b'] = '\b',
                                       ['f'] = '\f', ['n'] = '\n',  ['r'] = '\r', ['t'] = '\t'};
    if (at == end)
        return NULL;
    uint8_t *out = *to;
    if (*at != 'u') {
        if (!meant[*at])
            return NULL;
        *out = meant[*at];
        *to = out + 1;
        return at + 1;
    }
    int32_t point = four_digits(at + 1, end);
    at += 5;
    if (point < 0 || (point >= 0xdc00 && point < 0xe000))
        return NULL;
    if (point >= 0xd800 && point < 0xdc00) {
        if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
            return NULL;
        int32_t low = four_digits(at + 2, end);
        if (low < 0xdc00 || low >= 0xe000)
            return NULL;
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
        at += 6;
    }
    if (point < 0x80) {
        *out++ = (uint8_t)point;
    } else if (point < 0x800) {
        *out++ = (uint8_t)(0xc0 | point >> 6);
        *out++ = (uint8_t)(0x80 | (point & 63));
    } else if (point < 0x10000) {
        *out++ = (uint8_t)(0xe0 | point >> 12);
        *out++ = (uint8_t)(0x80 | (point >> 6 & 63));
        *out++ = (uint8_t)(0x80 | (point & 63));
    } else {
        *out++ = (uint8_t)(0xf0 | point >> 18);
        *out++ = (uint8_t)(0x80 | (point >> 12 & 63));
        *out++ = (uint8_t)(0x80 | (point >> 6 & 63));
        *out++ = (uint8_t)(0x80 | (point & 63));
    }
    *to = out;
    return at;
}

// From behind the opening quote to behind the closing one; the string at *to, which moves on.
static Place string(Place at, Place end, uint8_t **to)
{
    uint8_t *out = *to;
    while (at < end) {
        if (end - at >= WIDE) {
            uint32_t marks = copy_wide(at, out);
            int plain = marks ? __builtin_ctz(marks) : WIDE;
            at += plain;
            out += plain;
            if (!marks)
                continue;
        }
        if (*at == '"') {
            *to = out;
            return at + 1;
        }
        if (*at == '\\') {
            at = escaped(at + 1, end, &out);
            if (!at)
                return NULL;
        } else if (*at < 32) {
            return NULL;
        } else if (*at < 128) {
            *out++ = *at++;
        } else {
            do {
                int size = character(at, end);
                if (!size)
                    return NULL;
                for (int i = 0; i < size; i++)
                    *out++ = *at++;
            } while (at < end && *at > 127);
        }
    }
    return NULL;
}

static Place digits(Place at, Place end, int most)
{
    Place start = at;
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at > start && at - start <= most ? at : NULL;
}

// Numbers that every parser takes: 18 digits, 18 behind the point, two in the exponent.
static Place number(Place at, Place end)
{
    at += *at == '-';
    Place start = at;
    at = digits(at, end, 18);
    if (!at || (*start == '0' && at - start > 1))
        return NULL;
    if (at < end && *at == '.') {
        at = digits(at + 1, end, 18);
        if (!at)
            return NULL;
    }
    if (at < end && (*at | 32) == 'e') {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        at = digits(at, end, 2);
    }
    return at;
}

static Place word(Place at, Place end, const char *wanted, int size)
{
    return end - at >= size && !memcmp(at, wanted, (size_t)size) ? at + size : NULL;
}

// Any value, passed over; `scratch` takes its strings.
static Place value(Place at, Place end, uint8_t *scratch, int depth)
{
    if (at == end || depth > DEEPEST)
        return NULL;
    switch (*at) {
    case '"':
        return string(at + 1, end, &scratch);
    case 't':
        return word(at, end, "true", 4);
    case 'f':
        return word(at, end, "false", 5);
    case 'n':
        return word(at, end, "null", 4);
    case '{':
    case '[':
        break;
    default:
        return number(at, end);
    }
    int is_object = *at == '{';
    uint8_t close = is_object ? '}' : ']';
    at = blanks(at + 1, end);
    if (at < end && *at == close)
        return at + 1;
    for (;;) {
        if (is_object) {
            uint8_t *key = scratch;
            if (at == end || *at != '"' || !(at = string(at + 1, end, &key)))
                return NULL;
            at = blanks(at, end);
            if (at == end || *at != ':')
                return NULL;
            at = blanks(at + 1, end);
        }
        at = value(at, end, scratch, depth + 1);
        if (!at)
            return NULL;
        at = blanks(at, end);
        if (at == end)
            return NULL;
        if (*at == close)
            return at + 1;
        if (*at != ',')
            return NULL;
        at = blanks(at + 1, end);
    }
}

// One object; its text at *to, which moves on.
static Place document(Place at, Place end, Place name, int64_t name_size, uint8_t **to)
{
    uint8_t *text = NULL;
    if (at == end || *at != '{')
        return NULL;
    do {
        at = blanks(at + 1, end);
        if (at == end || *at != '"')
            return NULL;
        Place key = at + 1;
        uint8_t *scratch = *to;
        at = string(key, end, &scratch);
        if (!at)
            return NULL;
        int64_t key_size = at - 1 - key;
        if (scratch - *to != key_size)
            return NULL;  // an escape in it
        at = blanks(at, end);
        if (at == end || *at != ':')
            return NULL;
        at = blanks(at + 1, end);
        if (!text && key_size == name_size && !memcmp(key, name, (size_t)name_size)) {
            if (at == end || *at != '"')
                return NULL;
            text = *to;
            at = string(at + 1, end, to);
        } else {
            at = value(at, end, *to, 0);
        }
        if (!at)
            return NULL;
        at = blanks(at, end);
    } while (at < end && *at == ',');
    if (at == end || *at != '}' || !text || *to == text)
        return NULL;
    return at + 1;
}

// Args:
//   lines: whole lines; only the last may lack its newline.
//   name: of the field, UTF-8 without anything that JSON escapes.
//   most: bytes of a line.
//   room: takes the texts; as long as the lines and WIDE more.
//   ends: takes the end of each text in `room`.
//   count: lines that were read before, texts that stand in `room`, bytes that they take; moves on.
// Returns: bytes of the lines that were read; less than all of them where a line is in doubt.
int json_texts(Place lines, int64_t size, Place name, int64_t name_size, int64_t most, uint8_t *room, int64_t *ends,
               int64_t *count)
{
    Place at = lines, end = lines + size;
    int64_t read = count[0], texts = count[1];
    uint8_t *out = room + count[2];
    while (at < end) {
        Place next = blanks(at, end);
        uint8_t *behind = out;
        if (next < end && *next != '\n') {
            next = document(next, end, name, name_size, &behind);
            if (!next)
                break;
            next = blanks(next, end);
            if ((next < end && *next != '\n') || next - at > most)
                break;
            ends[texts++] = behind - room;
            *behind++ = 0xff;
        }
        out = behind;
        read += next < end;
        at = next + (next < end);
    }
    count[0] = read;
    count[1] = texts;
    count[2] = out - room;
    return (int)(at - lines);
}
