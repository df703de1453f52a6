#include "runtime/text/answers/tool_tagged.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "runtime/text/answers/tool_call_object.h"
#include "runtime/text/answers/tool_schema.h"
#include "runtime/text/answers/tool_value_writer.h"

namespace kt {
namespace {

using Parameter = TagDialect::Parameter;
using Answer = Ahead::Answer;

// The longest head of a tag. Names of tools and parameters are far shorter.
constexpr size_t kMaxHead = 1024;

struct Head {
  enum class State { kBad, kWhole, kTextEnds } state;
  std::string_view text;  // without the '>'
};

// The head at the start of `text`: up to '>', on one line.
Head read_head(std::string_view text) {
  const size_t end = text.substr(0, kMaxHead).find_first_of("<>\n");
  if (end == text.npos) return {text.size() < kMaxHead ? Head::State::kTextEnds : Head::State::kBad};
  if (text[end] != '>') return {Head::State::kBad};
  return {Head::State::kWhole, text.substr(0, end)};
}

class TaggedParser : public ToolParser {
 public:
  TaggedParser(const TagDialect& dialect, const nlohmann::ordered_json& tools)
      : d_(dialect), schemas_(tools), tags_{d_.block_open, d_.call_open,  d_.block_close,
                                            d_.call_close, d_.param_open, d_.param_close} {}

 private:
  enum class State { kText, kCallObject, kBody, kValue, kDoubt, kObject };
  enum Tag { kBlockOpen, kCallOpen, kBlockClose, kCallClose, kParamOpen, kParamClose };

  bool step() override {
    switch (state_) {
      case State::kText: return text();
      case State::kCallObject: return call_object();
      case State::kBody: return body();
      case State::kValue: return value();
      case State::kDoubt: return doubt();
      case State::kObject: return object();
    }
    return false;
  }

  // Outside calls.

  bool text() {
    const std::string_view rest = unread_.text();
    const std::array markers = {d_.block_open, d_.call_open, d_.block_close, d_.call_close, d_.param_close};
    const MarkerPlace mark = find_marker(rest, markers, final_);
    if (mark.at > 0) return shown(mark.at);
    if (!mark.found()) return false;
    if (mark.which == kBlockOpen) return block_head();
    if (mark.which == kCallOpen) return call_head(0);
    const bool ends_block = mark.which == kBlockClose && in_block_;
    if (!ends_block && !behind_call_ && !(d_.never_text && !tag_shown_))
      return shown(markers[static_cast<size_t>(mark.which)].size());
    if (ends_block || behind_call_) out_.inside_markup();
    if (ends_block) {
      in_block_ = false;
      behind_call_ = true;
    }
    return unread_.drop(markers[static_cast<size_t>(mark.which)].size()), true;
  }

  bool shown(size_t bytes) {
    behind_call_ = behind_call_ && trimmed(unread_.text().substr(0, bytes)).empty();
    tag_shown_ = tag_shown_ || unread_.text().starts_with(d_.block_open) || unread_.text().starts_with(d_.call_open);
    return literal(bytes), true;
  }

  // The unread text is block_open ...
  bool block_head() {
    const std::string_view inside = unread_.text().substr(d_.block_open.size());
    const std::array next = {d_.call_open, std::string_view(d_.object_in_block ? "{" : d_.call_open),
                             d_.never_text ? d_.block_close : d_.call_open};
    const Ahead ahead = look_ahead(inside, next);
    if (ahead.text_ends() && !final_) return false;
    if (ahead.text_ends() && d_.never_text) return drop_cut_off_head(), false;
    if (!ahead.yes()) return shown(d_.block_open.size());
    const size_t at = d_.block_open.size() + ahead.at;
    const std::string_view begin = unread_.text().substr(at);
    if (begin.starts_with('{')) {
      call_object_.emplace(unread_.text().substr(0, at));
      unread_.drop(at);
      return go(State::kCallObject);
    }
    if (begin.starts_with(d_.block_close)) return unread_.drop(at + d_.block_close.size()), true;
    return call_head(at);
  }

  bool call_object() {
    unread_.drop(call_object_->read(unread_.text(), out_));
    if (call_object_->reading()) {
      if (final_ && !out_.in_call()) cut_off_ = true;
      return false;
    }
    in_block_ = behind_call_ = call_object_->is_call();
    tag_shown_ = tag_shown_ || !call_object_->is_call();
    call_object_.reset();
    return go(State::kText);
  }

  // The opening tag of a call, `at` bytes into the unread text, behind the block's opening tag if at > 0.
  bool call_head(size_t at) {
    const std::string_view rest = unread_.text();
    size_t end = 0;
    const Answer answer = whole_call_head(rest.substr(at), "{", end);
    if (answer == Answer::kTextEnds && !final_) return false;
    if (answer == Answer::kTextEnds && (at > 0 || in_block_)) return drop_cut_off_head(), false;
    if (answer != Answer::kYes) return shown(at > 0 ? d_.block_open.size() : d_.call_open.size());

    function_ = *d_.read_call(read_head(rest.substr(at + d_.call_open.size())).text);
    if (in_block_) out_.inside_markup();
    out_.begin_call(function_);
    given_.clear();
    arguments_ = Arguments::kNone;
    in_block_ = true;
    unread_.drop(at + end);
    return go(State::kBody);
  }

  // Is `text` the opening tag of a call and followed by what calls hold? `end` is where the tag ends.
  Answer whole_call_head(std::string_view text, std::string_view also, size_t& end) const {
    const Head head = read_head(text.substr(d_.call_open.size()));
    if (head.state == Head::State::kTextEnds) return Answer::kTextEnds;
    if (head.state == Head::State::kBad || !d_.read_call(head.text)) return Answer::kNo;
    end = d_.call_open.size() + head.text.size() + 1;
    const std::array inside = {d_.param_open, d_.call_close, also};
    return look_ahead(text.substr(end), std::span(inside).first(also.empty() ? 2 : 3)).answer;
  }

  // Inside a call, between parameters. White space behind a tag is markup, behind text that no parameter holds it is
  // part of the text.

  bool body() {
    if (!amid_text_) unread_.drop(leading_white_space(unread_.text()));
    const std::string_view rest = unread_.text();
    if (rest.starts_with('{') && arguments_ == Arguments::kNone && !amid_text_) return start_object();
    const MarkerPlace mark = find_marker(rest, tags_, false);
    if (mark.at > 0) return text_amid_call(mark.at);
    if (!mark.found()) {
      if (final_) unread_.drop(rest.size());  // the start of a tag, of a call that was cut off
      return false;
    }
    switch (mark.which) {
      case kParamOpen:
        if (arguments_ != Arguments::kObject) return param_head();
        return text_amid_call(d_.param_open.size());
      case kParamClose: return text_amid_call(d_.param_close.size());
      case kCallClose: unread_.drop(d_.call_close.size()); break;
      default: break;  // the end of the block or another call ends this one
    }
    end_call();
    return go(State::kText);
  }

  bool text_amid_call(size_t bytes) {
    amid_text_ = true;
    return literal(bytes), true;
  }

  bool param_head() {
    const std::string_view rest = unread_.text();
    const Head head = read_head(rest.substr(d_.param_open.size()));
    if (head.state == Head::State::kTextEnds) {
      if (final_) unread_.drop(rest.size());
      return false;
    }
    const auto parameter = head.state == Head::State::kWhole ? d_.read_parameter(head.text) : std::nullopt;
    if (!parameter) return text_amid_call(d_.param_open.size());

    out_.arguments((arguments_ == Arguments::kNone ? "{" : ", ") + json_quoted(parameter->name) + ": ");
    arguments_ = Arguments::kMembers;
    given_.insert(parameter->name);
    switch (parameter->is) {
      case Parameter::Is::kString: value_ = ValueWriter::string(); break;
      case Parameter::Is::kJson: value_ = ValueWriter::json(); break;
      case Parameter::Is::kTyped:
        value_ = ValueWriter::typed(schemas_.types(function_, parameter->name).value_or(kStringType));
    }
    at_value_start_ = at_line_start_ = true;
    unread_.drop(d_.param_open.size() + head.text.size() + 1);
    return go(State::kValue);
  }

  void end_call() {
    if (arguments_ != Arguments::kObject) out_.arguments(arguments_ == Arguments::kNone ? "{}" : "}");
    out_.end_call();
    behind_call_ = true;
  }

  // Inside a value. The newline before a tag stays unread with it, since it may belong to the markup.

  bool value() {
    if (at_value_start_ && d_.values_on_own_lines) {
      if (unread_.empty()) return false;
      if (unread_.text().starts_with('\n')) unread_.drop(1);
    }
    at_value_start_ = false;

    const MarkerPlace mark = find_marker(unread_.text(), tags_, final_);
    const bool newline = mark.at > 0 && unread_.text()[mark.at - 1] == '\n';
    const bool open_end = final_ && !mark.found();  // the text ends within the value
    add_to_value(mark.at - (newline && !open_end));
    if (!mark.found()) return false;
    return tag_in_value(mark.which, newline);
  }

  // The unread text is [newline] tag ...
  bool tag_in_value(int tag, bool newline) {
    const size_t at = newline, after = at + tag_size(tag);
    const std::string_view rest = unread_.text().substr(at);
    const bool starts_line = newline || at_line_start_;
    size_t head_end = 0;
    Answer answer = Answer::kNo;
    if (tag == kParamClose) answer = after_closing_tag(rest);
    if (tag == kCallClose) answer = after_call(rest);
    if (tag == kParamOpen && starts_line) answer = next_parameter(rest);
    if (tag == kCallOpen && starts_line && may_doubt_) answer = whole_call_head(rest, "", head_end);
    if (answer == Answer::kTextEnds) {
      if (!final_) return false;
      answer = tag == kParamClose ? Answer::kYes : Answer::kNo;
    }
    const bool yes = answer == Answer::kYes;
    if (tag == kParamClose && (yes || !may_doubt_)) return end_value(newline, tag_size(tag));
    if (tag == kParamClose) return start_doubt({at, tag_size(tag), after, 0});
    if (tag == kParamOpen && yes) return end_value(newline, 0);
    if (tag == kCallClose && yes && !may_doubt_) return end_value(newline, 0);
    if (tag == kCallClose && yes) return start_doubt({at, 0, after, 0});
    if (tag == kCallOpen && yes) return start_doubt({std::nullopt, 0, at + head_end, 1});
    add_to_value(after);
    return true;
  }

  // Which answers make the closing tag of a value one: what follows belongs to the call.
  Answer after_closing_tag(std::string_view text) const {
    const std::array next = {d_.param_open, d_.call_close, d_.block_close, d_.block_open, d_.call_open};
    return look_ahead(text.substr(d_.param_close.size()), next).answer;
  }
  // Which makes the closing tag of a call one, although the value's was forgotten. Not the end of the answer: half a
  // value that holds such a tag must not pass for a whole one.
  Answer after_call(std::string_view text) const {
    const std::array next = {d_.block_close, d_.block_open, d_.call_open};
    return look_ahead(text.substr(d_.call_close.size()), next).answer;
  }
  // A parameter that the function has and that was not given yet.
  Answer next_parameter(std::string_view text) const {
    const Head head = read_head(text.substr(d_.param_open.size()));
    if (head.state == Head::State::kTextEnds) return Answer::kTextEnds;
    const auto next = head.state == Head::State::kWhole ? d_.read_parameter(head.text) : std::nullopt;
    const bool fits = next && !given_.contains(next->name) && schemas_.may_have(function_, next->name);
    return fits ? Answer::kYes : Answer::kNo;
  }

  void add_to_value(size_t bytes) {
    if (bytes == 0) return;
    const std::string_view text = unread_.text().substr(0, bytes);
    at_line_start_ = text.ends_with('\n');
    out_.arguments(value_.add(text));
    unread_.drop(bytes);
  }

  bool end_value(bool newline, size_t tag_bytes) {
    add_to_value(newline && !d_.values_on_own_lines);
    out_.arguments(value_.end());
    unread_.drop((newline && d_.values_on_own_lines) + tag_bytes);
    return go(State::kBody);
  }

  // Inside a value, in doubt where it ends: behind a closing tag amid text, behind the end of the call without such a
  // tag, or in a call inside the value. Nothing is read until it is known whether the value goes on, which it does up
  // to the next closing tag that belongs to the call. Where none comes, it ended where the doubt began.

  struct Doubt {
    std::optional<size_t> value_end;  // where the value ends if it does not go on
    size_t tag_bytes;                 // of the closing tag there
    size_t looked_at;                 // all before it was considered
    int inner_calls;                  // calls that are open inside the value
  };

  bool start_doubt(Doubt doubt) {
    doubt_ = doubt;
    return go(State::kDoubt);
  }

  bool doubt() {
    const std::string_view rest = unread_.text();
    const MarkerPlace mark = find_marker(rest.substr(doubt_.looked_at), tags_, final_);
    const size_t at = doubt_.looked_at += mark.at;
    if (!mark.found()) {
      if (final_) may_doubt_ = false;  // a doubt that starts later finds no closing tag either
      return final_ && settle_doubt(at);
    }
    const std::string_view tag = rest.substr(at);
    const bool outside = doubt_.inner_calls == 0;
    size_t head_end = 0;
    Answer answer = Answer::kNo;
    if (mark.which == kParamClose && outside) answer = after_closing_tag(tag);
    if (mark.which == kCallClose && outside) answer = after_call(tag);
    if (mark.which == kParamOpen && outside && rest[at - 1] == '\n') answer = next_parameter(tag);
    if (mark.which == kCallOpen) answer = whole_call_head(tag, "", head_end);
    if (answer == Answer::kTextEnds) {
      if (!final_) return false;
      answer = mark.which == kParamClose ? Answer::kYes : Answer::kNo;
    }
    const bool yes = answer == Answer::kYes;
    doubt_.looked_at = at + tag_size(mark.which);
    switch (mark.which) {
      case kParamClose:
        if (outside && yes) return end_value_at(at, tag_size(kParamClose));
        if (outside) may_end_at(at, tag_size(kParamClose));
        break;
      case kCallClose:
        if (!outside)
          --doubt_.inner_calls;
        else if (yes)
          may_end_at(at, 0);
        break;
      case kParamOpen:
        if (yes) return settle_doubt(at);
        break;
      case kCallOpen:
        if (yes && outside && doubt_.value_end) return settle_doubt(at);
        doubt_.inner_calls += yes;
        break;
      default: break;
    }
    return true;
  }

  void may_end_at(size_t at, size_t tag_bytes) {
    if (doubt_.value_end) return;
    doubt_.value_end = at;
    doubt_.tag_bytes = tag_bytes;
  }

  // The value does not go on beyond `here`, where the text ends or another part of the call begins.
  bool settle_doubt(size_t here) {
    if (doubt_.value_end) return end_value_at(*doubt_.value_end, doubt_.tag_bytes);
    return may_doubt_ ? end_value_at(here, 0) : go(State::kValue);
  }

  bool end_value_at(size_t at, size_t tag_bytes) {
    const bool newline = at > 0 && unread_.text()[at - 1] == '\n';
    add_to_value(at - newline);
    return end_value(newline, tag_bytes);
  }

  // A call whose arguments are one JSON object instead of parameters.

  bool start_object() {
    arguments_ = Arguments::kObject;
    nesting_ = {};
    return go(State::kObject);
  }

  bool object() {
    const JsonNesting::Step step = nesting_.follow(unread_.text());
    out_.arguments(unread_.text().substr(0, step.length));
    unread_.drop(step.length);
    if (step.end == JsonNesting::Step::End::kClosed) return go(State::kBody);
    if (step.end == JsonNesting::Step::End::kText) return false;
    const std::array end = {d_.call_close};
    const MarkerPlace mark = find_marker(unread_.text(), end, final_);
    if (mark.at == 0) return mark.found() && go(State::kBody);
    out_.arguments(unread_.text().substr(0, 1));  // a stray '<' in what is no JSON
    return unread_.drop(1), true;
  }

  size_t tag_size(int tag) const { return tags_[static_cast<size_t>(tag)].size(); }
  bool go(State state) {
    amid_text_ = false;
    return state_ = state, true;
  }

  const TagDialect& d_;
  const ToolSchemas schemas_;
  const std::array<std::string_view, 6> tags_;  // in Tag's order

  State state_ = State::kText;
  bool in_block_ = false;     // a call came, and the block's closing tag did not
  bool behind_call_ = false;  // nothing but tags and white space came since
  bool tag_shown_ = false;    // as text: the answer speaks of tags
  std::optional<CallObject> call_object_;

  bool amid_text_ = false;  // in a call: the last that came was text, not a tag

  std::string function_;
  std::set<std::string> given_;                                  // names of the call's parameters so far
  enum class Arguments { kNone, kMembers, kObject } arguments_;  // what was written of them
  JsonNesting nesting_;

  ValueWriter value_ = ValueWriter::string();
  bool at_value_start_ = false, at_line_start_ = false;
  bool may_doubt_ = true;
  Doubt doubt_ = {};
};

}  // namespace

std::unique_ptr<ToolParser> make_tagged_parser(const TagDialect& dialect, const nlohmann::ordered_json& tools) {
  return std::make_unique<TaggedParser>(dialect, tools);
}

}  // namespace kt
